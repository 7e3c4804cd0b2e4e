"""Do synthetic frames help those who have few labelled patients? The log goes to results/few_patients.txt.

    python benchmarks/few_patients.py --camus RELEASE --work FOLDER [--patients 10 25 50 100] [--log FILE]

For each number, as many of the training patients are drawn at random (the smaller sets lie within the larger ones), a
fifth of them for validation, and pipelines/replicate.sh runs on a release of these and the test patients alone: the
diffusion model, the deformed label maps and the choice of the best epoch see nobody else. Compared are segmentations of
the real frames alone with those of both together, and of real frames after synthetic ones with those after real ones.
Run again, it goes on. NIfTI releases only.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from chain import HEADING, describe, error_of, patient_dice
from project_commands import run
from replication_table import (
    DIFFERENCE_HEADING,
    KINDS,
    MORE_KINDS,
    ROWS,
    STRUCTURES,
    TITLE_WIDTH,
    adjust_together,
    dice_differences,
    difference_line,
    legend,
    runs_of,
    seed_spread,
)
from report import evaluation
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from camus import find_release, write_subgroups  # noqa: E402
from command import UserError, run_command  # noqa: E402
from names import SPLITS  # noqa: E402

VALIDATION_SHARE = 0.2
FRAMES_PER_PATIENT = 4
PAIRS = (("real", "both"), ("real_again", "then_real"))
SHOWN = (*KINDS, "real_again", "then_real")
COLOURS = dict(zip(SHOWN, ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#cc79a7"), strict=True))


@dataclass
class BenchmarkSettings:
    camus: Path
    """The CAMUS release (NIfTI)."""
    work: Path
    """Folder for the small releases and their runs."""
    patients: tuple[int, ...] = (10, 25, 50, 100)
    """Numbers of labelled patients, training and validation together."""
    synthetic: int = 2000
    """Synthetic frames aimed at, for every number of patients: so many deformed maps are made of each frame."""
    steps: int = 5000
    """Of the diffusion training."""
    updates: int = 3000
    """Of each segmentation."""
    seeds: tuple[int, ...] = (0,)
    """Of the segmentation."""
    draw_seed: int = 0
    """Which patients are drawn."""
    log: Path = RESULTS / "few_patients.txt"
    """Where the results are written; the plot beside it."""


def choose(names: list[str], count: int, seed: int) -> dict[str, list[str]]:
    """`count` of the patients in `names`, by split; those of smaller counts are among those of larger ones.

    Raises UserError if there are too few of them, or none would be left for validation.
    """
    if not 2 <= count <= len(names):
        raise UserError(f"patients {count}: from 2 to the {len(names)} training patients of the release")
    chosen = [names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]]
    held_out = max(1, round(VALIDATION_SHARE * count))
    return {"training": sorted(chosen[held_out:]), "validation": sorted(chosen[:held_out])}


def make_release(settings: BenchmarkSettings, count: int) -> Path:
    """A release of `count` of the training patients and all test patients, as links into the whole one."""
    release = find_release(settings.camus)
    if release.kind != "nifti":
        raise UserError(f"{settings.camus} is no NIfTI release, whose splits are lists")
    by_split = {split: sorted(p for s, p in release.people if s == split) for split in SPLITS}
    patients = choose(by_split["training"], count, settings.draw_seed) | {"testing": by_split["testing"]}
    root = settings.work / f"release_{count}"
    if (root / "database_split").exists():
        lists = {s: (root / "database_split" / f"subgroup_{s}.txt").read_text().split() for s in SPLITS}
        if lists != patients:
            raise UserError(f"{root} holds other patients: give another --work")
        theirs = (root / "database_nifti" / patients["testing"][0]).resolve()
        if theirs != (release.root / "database_nifti" / patients["testing"][0]).resolve():
            raise UserError(f"{root} links to another copy of the release ({theirs.parent}): give another --work")
        return root
    (root / "database_nifti").mkdir(parents=True, exist_ok=True)
    for name in (name for names in patients.values() for name in names):
        link = root / "database_nifti" / name
        if not link.is_symlink():
            os.symlink((release.root / "database_nifti" / name).resolve(), link)
    lists = root / ".lists"
    shutil.rmtree(lists, ignore_errors=True)
    write_subgroups(lists, patients)
    (lists / "database_split").rename(root / "database_split")  # last: it says that the rest is there
    lists.rmdir()
    return root


def replicate(settings: BenchmarkSettings, count: int) -> dict[str, list[Path]]:
    """The evaluated runs of each kind for `count` patients."""
    root, folder = make_release(settings, count), settings.work / f"run_{count}"
    repeat = max(1, round(settings.synthetic / (FRAMES_PER_PATIENT * count)))
    run(
        *(ROOT / "pipelines/replicate.sh", root, "cpu64"),
        quiet=False,
        REPLICATE_FOLDER=str(folder.resolve()),
        REPLICATE_STEPS=str(settings.steps),
        REPLICATE_REPEAT=str(repeat),
        REPLICATE_UPDATES=str(settings.updates),
        REPLICATE_SEEDS=" ".join(map(str, settings.seeds)),
        REPLICATE_KINDS="then_real real_again",
    )
    return runs_of(folder, settings.seeds)


def draw(found: dict[int, dict[str, dict[str, np.ndarray]]], path: Path) -> None:
    """A panel for each structure: Dice against the number of patients, a line for what was trained on."""
    figure, panels = plt.subplots(1, len(STRUCTURES), figsize=(4.2 * len(STRUCTURES), 3.8), sharey=True)
    for panel, (structure, title) in zip(panels, STRUCTURES.items(), strict=True):
        for place, kind in enumerate(SHOWN):
            beside = [count * 1.04 ** (place - len(SHOWN) // 2) for count in found]  # bars do not hide one another
            values = [by_kind[kind][structure] for by_kind in found.values()]
            means, errors = [v.mean() for v in values], [error_of(v) for v in values]
            panel.errorbar(beside, means, errors, color=COLOURS[kind], marker="o", capsize=3, label=kind)
        panel.set(title=title, xscale="log", xlabel="labelled patients")
        panel.set_xticks(list(found), list(map(str, found)))
        panel.minorticks_off()
    panels[0].set_ylabel("Dice on real test patients")
    panels[0].legend(fontsize=8, title="bars: standard error", title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def measure(settings: BenchmarkSettings) -> None:
    log = Log(
        settings.log,
        f"python benchmarks/few_patients.py --camus CAMUS --work FOLDER "
        f"--patients {' '.join(map(str, settings.patients))} --synthetic {settings.synthetic} --steps {settings.steps} "
        f"--updates {settings.updates} --seeds {' '.join(map(str, settings.seeds))} --draw_seed {settings.draw_seed}",
        f"64 x 64 pixels, diffusion {settings.steps} steps, about {settings.synthetic} synthetic frames, "
        f"{settings.updates} updates of each segmentation; seeds {settings.seeds}, of the draw {settings.draw_seed}",
        "Dice on the real test patients, mean (standard error over patients), in native geometry",
    )
    runs = {count: replicate(settings, count) for count in sorted(settings.patients)}
    frames = {count: evaluation(str(settings.work / f"run_{count}/evaluation/all_views")) for count in runs}
    found = {count: {kind: patient_dice(of_kind[kind]) for kind in SHOWN} for count, of_kind in runs.items()}
    differences = {
        (count, first, second): dice_differences(of_kind[first], of_kind[second])
        for count, of_kind in runs.items()
        for first, second in PAIRS
    }
    adjust_together([one for by_structure in differences.values() for one in by_structure.values()])
    for count, by_kind in found.items():
        log.say(f"{f'{count} patients, trained on':40}{HEADING}")
        for kind, values in by_kind.items():
            log.say(f"{kind:40}{describe(values)}")
        log.say(f"{'':{TITLE_WIDTH}}{DIFFERENCE_HEADING}")
        for first, second in PAIRS:
            for structure, difference in differences[count, first, second].items():
                log.say(difference_line(f"{second} - {first}, {ROWS[structure]}", difference))
        for line in ("", *seed_spread({kind: runs[count][kind] for kind in SHOWN})):
            log.say(line)
        log.say(frames[count])
        log.say()
    for line in (
        *legend(next(iter(runs.values()))),
        *(f"{kind}: {MORE_KINDS[kind]}" for kind in SHOWN if kind in MORE_KINDS),
    ):
        log.say(line)
    log.write()
    draw(found, settings.log.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))

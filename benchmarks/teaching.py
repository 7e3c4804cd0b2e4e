"""Which diffusion model draws the frames that teach a segmentation best? Log: results/teaching.txt.

    python benchmarks/teaching.py --replicate_folder FOLDER --camus RELEASE --weights EMA EMA ... [--frames 500]
        [--steps 10] [--seeds 0] [--log FILE]

FOLDER is that of a finished pipelines/replicate.sh at cpu64 or cpu128, of which come the label maps, the sampler, the
settings of the segmentation and the test patients. The weights are known by the names of their folders
(those of prediction_types.py, say); the differences are against the first. Run again, it goes on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval, MinLen
from chain import HEADING, describe, patient_dice
from replication_run import ReplicationRun
from replication_table import (
    DIFFERENCE_HEADING,
    ROWS,
    TITLE_WIDTH,
    adjust_together,
    dice_differences,
    difference_line,
)
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from command import UserError, run_command  # noqa: E402
from schema import check_settings  # noqa: E402

Positive = Annotated[int, Interval(ge=1)]
WIDTH = 24  # of a name


@dataclass
class BenchmarkSettings:
    replicate_folder: Path
    """Of pipelines/replicate.sh, for one network of all views."""
    camus: Path
    """The CAMUS release it was made from."""
    weights: Annotated[tuple[Path, ...], MinLen(1)]
    """Averaged weights of networks for its image size, each in a folder of another name."""
    frames: Positive = 500
    """Frames drawn by each, training and validation together."""
    steps: Positive = 10
    """Sampling steps."""
    seeds: Annotated[tuple[int, ...], MinLen(1)] = (0,)
    """Of the segmentations; the run has one of real frames with the first."""
    log: Path = RESULTS / "teaching.txt"
    """Where the results are written."""


def named(weights: tuple[Path, ...]) -> dict[str, Path]:
    """The weights by the names of their folders. Raises UserError for a missing file, or two of one name."""
    found: dict[str, Path] = {}
    for path in weights:
        name = path.absolute().parent.name  # of a link, where it lies
        if not path.is_file():
            raise UserError(f"weights {path}: there is no such file")
        if name in found:
            raise UserError(f"weights {path}: {found[name]} lies in a folder of the same name")
        found[name] = path.absolute()
    return found


def measure(settings: BenchmarkSettings) -> None:
    check_settings(settings)
    by_name = named(settings.weights)
    run = ReplicationRun(settings.replicate_folder, settings.camus, settings.seeds[0])
    if settings.frames > len(run.label_maps):
        raise UserError(f"frames {settings.frames}: the run has {len(run.label_maps)} label maps")
    asked = run.settings
    log = Log(
        settings.log,
        f"python benchmarks/teaching.py --replicate_folder FOLDER --camus CAMUS --weights {' '.join(by_name)} "
        f"--frames {settings.frames} --steps {settings.steps} --seeds {' '.join(map(str, settings.seeds))}",
        f"each segmentation: {asked['epochs']} epochs of {asked['epoch_updates']} updates of {asked['batch_size']}",
        f"{asked['img_size']} x {asked['img_size']} pixels; frames of training and validation together",
        "Dice on the real test patients, mean (standard error over patients), in native geometry",
    )
    log.say(f"{'frames drawn by':{WIDTH}}{HEADING}")
    runs: dict[str, list[Path]] = {}
    for name, path in by_name.items():
        point = f"{name}_{settings.steps}_{settings.frames}"
        data = run.draw(point, path, settings.steps, settings.frames)
        runs[name] = [run.segment(point, data, seed) for seed in settings.seeds]
        log.say(f"{name:{WIDTH}}{describe(patient_dice(runs[name]))}")
        for seed, one in zip(settings.seeds, runs[name], strict=True):
            log.say(f"{f'  seed {seed}':{WIDTH}}{describe(patient_dice([one]))}")
    first, *others = by_name
    if others:
        log.say(f"\n{f'less {first}':{WIDTH + TITLE_WIDTH}}{DIFFERENCE_HEADING}")
    differences = {name: dice_differences(runs[first], runs[name]) for name in others}
    adjust_together([one for by_structure in differences.values() for one in by_structure.values()])
    for name, by_structure in differences.items():
        for structure, one in by_structure.items():
            log.say(f"{name:{WIDTH}}{difference_line(ROWS[structure], one)}")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))

"""What a finished pipelines/replicate.sh has left, and frames and segmentations made on it beside its own."""

import csv
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from chain import once
from timing import ROOT

from command import UserError

# Settings of the run's segmentations that those made beside them take over.
TAKEN = ("img_size", "batch_size", "epochs", "epoch_updates", "loss", "lr", "min_lr", "decoder_channels", "gpu")


def done(folder: Path) -> Path:
    """The mark of a command that has made all of `folder`, whose name may hold dots."""
    return folder.with_name(f"{folder.name}.done")


class ReplicationRun:
    """A run of replicate.sh in `folder`, made of the release `camus`. More goes to its what_decides.

    Raises UserError if there are no averaged weights, sampled frames or segmentations of real frames with `seed`.
    """

    def __init__(self, folder: Path, camus: Path, seed: int):
        self.folder, self.camus = folder.resolve(), camus.resolve()
        self.base = self.folder / "what_decides"
        found = (folder / "diffusion" / "all_views").glob("ema_[0-9]*_*.pt")
        self.checkpoints = dict(sorted((int(path.stem.rpartition("_")[2]), path) for path in found))
        """Averaged weights by training step."""
        self.real = folder / f"segmentation_real_{seed}"
        self.manifest = folder / "results/all_views/manifest.csv"
        """Of the frames that the run drew."""
        for path in (self.manifest, self.real / "summary.json"):
            if not self.checkpoints or not path.is_file():
                raise UserError(f"{folder}: no finished run of replicate.sh at cpu64 or cpu128, with seed {seed}")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Of the run's segmentations."""
        return json.loads((self.real / "settings.json").read_text())

    @cached_property
    def drawn_by(self) -> dict[str, str]:
        """The row of a frame that the run drew."""
        with open(self.manifest, newline="", encoding="utf-8") as file:
            return next(csv.DictReader(file))

    @property
    def steps(self) -> int:
        """In which the run drew its frames."""
        return int(self.drawn_by["steps"])

    @cached_property
    def label_maps(self) -> list[Path]:
        """<split>/<name> of those that the run sampled for, in an order drawn at random."""
        folder = self.folder / "augmented/all_views_augmented/sector_annotations"
        found = sorted(path.relative_to(folder) for path in folder.glob("*/*.png"))
        return [found[place] for place in np.random.default_rng(0).permutation(len(found))]

    def part_of(self, folder: str, frames: int) -> Path:
        """The view folder `folder` of the run with the first `frames` label maps and their images, as links.

        Its testing split is there as a whole.
        """
        whole, part = self.folder / folder, self.base / f"{folder.replace('/', '_')}_{frames}"
        if part.is_dir():
            return part
        unfinished = part.with_name(f".{part.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        names = {*self.label_maps[:frames]}
        for path in whole.glob("*/*/*.png"):
            if path.parent.name == "testing" or path.relative_to(path.parents[1]) in names:
                link = unfinished / path.relative_to(whole)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        for path in (*whole.glob("*.csv"), *whole.glob("*.json")):
            shutil.copy(path, unfinished)
        return unfinished.rename(part)

    def draw(self, name: str, weights: Path, steps: int, frames: int) -> Path:
        """The view folder with an image of each of the first `frames` label maps, and the real frames to test on.

        name: of its folders; another one for other weights, steps or frames.
        """
        results, data = self.base / f"results_{name}", self.base / f"data_{name}"
        labels = self.part_of("augmented/all_views_augmented", frames)
        once(
            done(results),
            *(ROOT / "semantic_diffusion_model/image_sample.py", "--datadir", labels, "--all", True),
            *("--resume_checkpoint", weights, "--num_steps", steps, "--sampler", self.drawn_by["sampler"]),
            *("--spacing", self.drawn_by["spacing"], "--results_dir", results),
        )
        once(
            done(data),
            *(ROOT / "data_preparation/prepare_inference4segmentation.py", "--sdm_results_folder", results),
            *("--testing_data_folder", self.folder / "views", "--save_folder", data, "--overwrite", True),
        )
        return data / "all_views"

    def segment(self, name: str, data: Path, seed: int) -> Path:
        """An evaluated segmentation of the frames in `data`, by the settings of the run's own; done once for a name."""
        out, flags = self.base / f"segmentation_{name}_{seed}", []
        for setting in TAKEN:
            value = self.settings[setting]
            flags += [f"--{setting.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
        once(
            done(out),
            *(ROOT / "echo_segmentation/runner.py", "--data-dir", data, "--output-dir", out, *flags),
            *("--seed", seed, "--native-dir", self.camus, "--num-workers", 0, "--test-viz-num", 0),
        )
        return out

"""Every setting of image_evaluate.py: its name, default, range and meaning, once."""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from command import PathText, UserError, YesNo
from setting_groups import Count

Folders = tuple[PathText, ...]
SETS = ("A", "B")


@dataclass
class EvaluationSettings:
    real_dir: PathText = ""
    """Real frames: images/ and sector_annotations/, each with training/ and, where there are, validation/ and testing/
    (augment_camus_labels.py --add_augmentation False writes it)."""
    synthetic_dir: PathText = ""
    """Synthetic frames: the results_dir of image_sample.py, with samples/, labels/ and manifest.csv."""
    compare: Folders = ()
    """Two such folders, A and B, instead of synthetic_dir: each is evaluated, and both are compared by label map."""
    output_dir: PathText = "./evaluation"
    """Folder for evaluation.json, evaluation.md and figures/."""
    segmentation_model: PathText = ""
    """model.pth of echo_segmentation/runner.py: distances are measured in the features of its encoder."""
    feature_weights: PathText = ""
    """Inception weights as torch-fidelity publishes them (weights-inception-2015-12-05-6726825d.pth): FID, KID,
    precision and recall."""
    predictions: Folders = ()
    """What a segmentation network sees in samples/: the output folder of echo_segmentation/predict.py; with --compare
    one folder for A and one for B."""
    real_predictions: PathText = ""
    """The same of real frames, all of them or some (those of testing, say)."""
    dynamic_range: Annotated[float, Interval(ge=10, le=200)] = 60.0
    """Decibels between grey levels 0 and 255, which undoes the logarithmic compression before Nakagami is fitted. CAMUS
    does not tell it."""
    num_samples: Count = 0
    """Evaluate at most this many synthetic images, drawn at random by the seed; 0: all."""
    bootstrap: Annotated[int, Interval(ge=100, le=10**5)] = 1000
    """Resamplings of the patients for 95 % intervals."""
    ssim_pairs: Annotated[int, Interval(ge=10, le=10**5)] = 300
    """Pairs of images that structural similarity is averaged over, in each group."""
    batch_size: Annotated[int, Interval(ge=1, le=2**14)] = 64
    """Images in memory at a time."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Resamplings, halves of patients and pairs of images depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one, else the CPU."""
    overwrite: YesNo = False
    """Replace the evaluation that output_dir holds; False: refuse a folder that is not empty."""

    def synthetic_dirs(self) -> dict[str, str]:
        """The folders to evaluate by name: "" for a single one, "A" and "B" with --compare."""
        return dict(zip(SETS, self.compare, strict=True)) if self.compare else {"": self.synthetic_dir}

    def check(self) -> None:
        """Raise UserError for what is missing, or does not go together, before anything slow is imported."""
        if not self.real_dir:
            raise UserError("--real_dir is needed: the folder of real frames, with images/ and sector_annotations/")
        if bool(self.synthetic_dir) == bool(self.compare):
            raise UserError("give either --synthetic_dir FOLDER, or --compare A B")
        if self.compare and len(self.compare) != 2:
            raise UserError(f"--compare takes two folders, not {len(self.compare)}")
        if self.compare and self.num_samples:
            raise UserError("--num_samples draws from one set; --compare pairs all label maps of two")
        if self.predictions and len(self.predictions) != len(self.synthetic_dirs()):
            raise UserError(f"--predictions: {len(self.predictions)} given for {len(self.synthetic_dirs())} sets")
        if self.real_predictions and not self.predictions:
            raise UserError("--real_predictions stands beside --predictions: give both")
        folders = {"real_dir": self.real_dir, "real_predictions": self.real_predictions}
        folders |= {f"synthetic set {name}".strip(): path for name, path in self.synthetic_dirs().items()}
        folders |= {f"predictions {i + 1}": path for i, path in enumerate(self.predictions)}
        for name, path in folders.items():
            if path and "://" not in path and not os.path.isdir(path):
                raise UserError(f"{name}: {path} is not a folder")

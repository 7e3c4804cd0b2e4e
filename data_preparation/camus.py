"""The one place that knows CAMUS: file names, views, splits, label schemes, and how its two releases are read.

Releases: the older MHD/RAW one, <camus>/{training,testing}/patientNNNN/, and the NIfTI one,
<camus>/database_nifti/patientNNNN/ with its splits in <camus>/database_split/subgroup_*.txt (Leclerc et al. 2019,
doi 10.1109/TMI.2019.2900516).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import UserError

VIEW_NAMES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
ALL_VIEWS = "all_views"
SPLITS = ("training", "validation", "testing")
SUFFIX = {"nifti": ".nii.gz", "mhd": ".mhd"}


@dataclass(frozen=True)
class FrameFiles:
    image: Path
    label: Path


def patient_folder(root: Path, release: str, split: str, patient: str) -> Path:
    if release == "nifti":
        return root / "database_nifti" / patient
    return root / ("testing" if split == "testing" else "training") / patient


def frame_files(root: Path, release: str, split: str, patient: str, view: str) -> FrameFiles:
    """Image and label of one frame; `view` is one of VIEW_NAMES."""
    stem = patient_folder(root, release, split, patient) / f"{patient}_{view}"
    return FrameFiles(*(stem.with_name(f"{stem.name}{kind}{SUFFIX[release]}") for kind in ("", "_gt")))


def info_file(root: Path, release: str, split: str, patient: str, view: str) -> Path:
    """The text file with image quality and volumes; `view` is 2CH, 4CH or one of VIEW_NAMES."""
    return patient_folder(root, release, split, patient) / f"Info_{view.split('_')[0]}.cfg"


def write_image(path: Path, pixels: np.ndarray, spacing_mm: tuple[float, float]) -> None:
    """Write uint8 `pixels` [depth, lateral] with `spacing_mm` (depth, lateral): NIfTI 2-D, MHD 3-D with one slice."""
    mhd = path.suffix == ".mhd"
    image = sitk.GetImageFromArray(pixels[None] if mhd else pixels)
    image.SetSpacing((spacing_mm[1], spacing_mm[0], 1.0)[: image.GetDimension()])
    try:
        sitk.WriteImage(image, str(path), useCompression=not mhd)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written (no space left?): {str(error).strip().splitlines()[-1]}") from None


def write_info(path: Path, values: dict[str, object]) -> None:
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))


def write_subgroups(root: Path, patients: dict[str, list[str]]) -> None:
    """The patient list of each split of a NIfTI release."""
    folder = root / "database_split"
    folder.mkdir(parents=True)
    for split, names in patients.items():
        (folder / f"subgroup_{split}.txt").write_text("".join(f"{name}\n" for name in names))

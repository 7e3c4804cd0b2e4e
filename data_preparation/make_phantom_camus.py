"""Make a CAMUS-shaped data set of phantoms: drawn hearts, simulated as ultrasound, free of any licence."""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from anatomy import PHASES, VIEWS, draw_patient
from camus import MHD_VALIDATION, PHANTOMS, SPLITS, Release, patient_folder, write_info, write_subgroups
from command import UserError, YesNo, run_command
from medical_writing import write_medical_image
from outputs import new_folders
from parallel import default_workers, for_each
from phantom import draw_chest, simulate
from progress import next_step
from raster import Raster
from schema import check_settings as check_ranges

RELEASE_FOLDERS = {"nifti": ("database_nifti", "database_split"), "mhd": ("training", "testing")}


@dataclass
class PhantomSettings:
    save_folder: Path
    """Folder of the new data set (gets database_nifti and database_split, or training and testing)."""
    n_patients: int = 40
    """Patients, four frames each: 80 % for training, 10 % for validation, 10 % for testing, at least one each."""
    release: Literal["nifti", "mhd"] = "nifti"
    """Which of the two CAMUS releases the folders and files look like. The frames are the same."""
    size: int = 400
    """Rows of a frame (depth); the columns follow from the cone, pixels are square. CAMUS has about 400 to 600."""
    seed: Annotated[int, Interval(ge=0, lt=2**64)] = 0
    """The same seed gives the same files, whatever the number of workers."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace phantoms that save_folder has already; otherwise they are an error. Other data is never replaced."""


def split_patients(n_patients: int, seed: int) -> list[str]:
    """The split of each patient: about 80 / 10 / 10 %, each at least once, in random order."""
    few = max(1, round(n_patients / 10))
    splits = ["training"] * (n_patients - 2 * few) + ["validation"] * few + ["testing"] * few
    return np.random.default_rng([seed, 0]).permutation(splits).tolist()


def number_patients(splits: list[str], release: str) -> list[int]:
    """The number of each patient: counted through (NIfTI), or as the MHD release tells its splits apart."""
    if release == "nifti":
        return list(range(1, len(splits) + 1))
    start = {"training": MHD_VALIDATION + 1, "validation": 1, "testing": 1}
    return [start[split] + splits[:index].count(split) for index, split in enumerate(splits)]


def draw_frames(seed: int, index: int, rows: int):
    """(patient, chest, {(view, phase): (image, labels, spacing_mm)}) of one phantom at `rows` pixels of depth.

    What is drawn depends on the seed and the patient's index alone.
    """
    random = [seed, 1 + index]
    drawn, chest = draw_patient(np.random.default_rng(random)), draw_chest(np.random.default_rng([*random, 1]))
    frames = {}
    for v, view in enumerate(VIEWS):
        raster = Raster(drawn.cones[view], rows)
        for p, phase in enumerate(PHASES):
            rng = np.random.default_rng([*random, 2 + v, 1 + p])
            image, labels = simulate(drawn.hearts[view, phase], raster, view, chest, rng)
            frames[view, phase] = image, labels, raster.spacing_mm
    return drawn, chest, frames


def make_patient(entry: tuple[int, str, str], root: Path, settings: PhantomSettings) -> float:
    """Simulate and write the four frames of one patient; returns the ejection fraction in percent."""
    index, patient, split = entry
    drawn, chest, frames = draw_frames(settings.seed, index, settings.size)
    release = Release(root, settings.release)
    patient_folder(root, settings.release, split, patient).mkdir(parents=True)
    for (view, phase), (image, labels, spacing_mm) in frames.items():
        frame = release.frame(split, patient, f"{view}_{phase}")
        write_medical_image(frame.image, image, spacing_mm)
        write_medical_image(frame.label, labels, spacing_mm)
    for view in VIEWS:
        write_info(
            release.frame(split, patient, f"{view}_ED").info,
            {
                "ED": 1,
                "ES": 2,
                "NbFrame": 2,
                "ImageQuality": chest.quality,
                "LVedv": round(drawn.edv_ml, 1),
                "LVesv": round(drawn.esv_ml, 1),
                "LVef": round(drawn.ef, 1),
            },
        )
    return drawn.ef


def check_settings(settings: PhantomSettings) -> None:
    """Raises UserError for impossible settings, and for data in the way that is not ours."""
    check_ranges(settings)
    if not 3 <= settings.n_patients <= 9000:
        raise UserError(f"--n_patients {settings.n_patients}: from 3 (one per subgroup) to 9000")
    if settings.release == "mhd" and settings.n_patients > 10 * MHD_VALIDATION:
        raise UserError(f"--n_patients {settings.n_patients}: an MHD release has room for {10 * MHD_VALIDATION}")
    if not 32 <= settings.size <= 4096:
        raise UserError(f"--size {settings.size}: from 32 to 4096 rows")


def make_phantom_camus(settings: PhantomSettings) -> None:
    """Write the data set. Raises UserError for impossible settings or folders that exist."""
    check_settings(settings)
    splits = split_patients(settings.n_patients, settings.seed)
    names = [f"patient{number:04d}" for number in number_patients(splits, settings.release)]
    print(f"drawing {settings.n_patients} phantom patients, four frames each, into {settings.save_folder}", flush=True)
    entries = list(zip(range(settings.n_patients), names, splits, strict=True))
    of_release = settings.save_folder, RELEASE_FOLDERS[settings.release], settings.overwrite
    with new_folders(*of_release, made_here=lambda folder: (folder / PHANTOMS).is_file()) as root:
        if settings.release == "nifti":
            write_subgroups(root, {s: [n for n, of in zip(names, splits, strict=True) if of == s] for s in SPLITS})
        for folder in RELEASE_FOLDERS[settings.release]:
            (root / folder).mkdir(exist_ok=True)
            (root / folder / PHANTOMS).write_text(
                f"Simulated by make_phantom_camus.py, seed {settings.seed}: no real data.\n"
            )
        work = partial(make_patient, root=root, settings=settings)
        ejection = list(for_each(work, entries, settings.num_workers, "phantoms"))
    counts = ", ".join(f"{splits.count(split)} {split}" for split in SPLITS)
    print(
        f"{settings.n_patients} patients ({counts}), {4 * settings.n_patients} frames, ejection fraction "
        f"{min(ejection):.0f}-{max(ejection):.0f} %, in {settings.save_folder}"
    )
    extract = "data_preparation/extract_camus_data.py", "--camus_data_folder", settings.save_folder
    print(next_step(*extract, "--save_folder_path", "./data/views"))


if __name__ == "__main__":
    sys.exit(run_command(make_phantom_camus, PhantomSettings, description=__doc__))

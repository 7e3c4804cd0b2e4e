"""The one place that knows the releases of CAMUS: their folders, lists and Info files, and how the two are read.

Its names and label schemes are a description like that of any data set: camus.json.

Releases: the older MHD/RAW one, <camus>/{training,testing}/patientNNNN/, and the NIfTI one,
<camus>/database_nifti/patientNNNN/ with its splits in <camus>/database_split/subgroup_*.txt (Leclerc et al. 2019,
doi 10.1109/TMI.2019.2900516). In the MHD release patients 1 to 50 of training/ are the validation subgroup, and
testing/ counts from patient0001 again: a patient is known by (split, patient).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command import UserError
from input_files import real_path
from names import SPLITS, Stem
from text_files import read_list, read_text

VIEW_NAMES = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
MHD_VALIDATION = 50
RELEASE_FOLDERS = ("database_nifti", "database_split", "training", "testing")
SUFFIXES = {"nifti": (".nii.gz", ".nii"), "mhd": (".mhd", ".mha")}  # the usual one first
PATIENT = re.compile(r"patient\d{4}")
PHANTOMS = "PHANTOMS.txt"  # stands in each folder of a release of phantoms, and in what is extracted from one

METADATA_COLUMNS = (
    *("stem", "patient", "view", "phase", "split", "source", "native_height", "native_width"),
    *("spacing_depth_mm", "spacing_lateral_mm", "image_interpolation", "image_quality", "ef", "edv_ml", "esv_ml"),
)
INFO_NUMBERS, INFO_NUMBER = (
    ("ef", "edv_ml", "esv_ml"),
    re.compile(r"(\d{1,6}(?:[.,]\d{1,6})?)\s*(?:%|ml)?", re.IGNORECASE),
)
INFO_LARGEST = {"ef": 100, "edv_ml": 100_000, "esv_ml": 100_000}  # what metadata.csv may hold
INFO_KEYS = {"image_quality": ("ImageQuality",), "ef": ("LVef", "EF"), "edv_ml": ("LVedv",), "esv_ml": ("LVesv",)}


def camus_stem(patient: str, view: str, split: str, repeat: int | None = None, round: int = 0) -> Stem:
    """The name of a frame of CAMUS, or of an image made from it; `view` is one of VIEW_NAMES."""
    return Stem(f"{patient}_{view}_{split}", patient, view, view.split("_")[1], split, repeat, round)


@dataclass(frozen=True)
class Frame:
    """One image of a release with its label map; the files need not exist."""

    patient: str
    split: str
    view: str
    image: Path
    label: Path
    info: Path  # Info_*.cfg: image quality, ejection fraction, volumes

    @property
    def stem(self) -> str:
        return str(camus_stem(self.patient, self.view, self.split))


@dataclass(frozen=True)
class Problem:
    """Something wrong with a release; `person` is the (split, patient) concerned, None if it is not one patient's."""

    text: str
    person: tuple[str, str] | None = None


@dataclass
class Release:
    root: Path
    kind: str  # nifti or mhd
    people: list[tuple[str, str]] = field(default_factory=list)  # (split, patient)
    problems: list[Problem] = field(default_factory=list)

    @property
    def phantoms(self) -> bool:
        """Whether make_phantom_camus.py made all of it."""
        folders = {patient_folder(self.root, self.kind, *person).parent for person in self.people}
        return bool(folders) and all((folder / PHANTOMS).is_file() for folder in folders)

    def frame(self, split: str, patient: str, view: str) -> Frame:
        folder = patient_folder(self.root, self.kind, split, patient)
        image, label = (find_file(folder, f"{patient}_{view}{kind}", SUFFIXES[self.kind]) for kind in ("", "_gt"))
        return Frame(patient, split, view, image, label, folder / f"Info_{view.split('_')[0]}.cfg")


def patient_folder(root: Path, kind: str, split: str, patient: str) -> Path:
    if kind == "nifti":
        return root / "database_nifti" / patient
    return root / ("testing" if split == "testing" else "training") / patient


def find_file(folder: Path, name: str, suffixes: Sequence[str]) -> Path:
    """The file `name` with one of `suffixes`, in any case of letters; where there is none, as the first would be."""
    usual = folder / (name + suffixes[0])
    if usual.is_file() or not folder.is_dir():
        return usual
    spellings = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
    found = (spellings.get((name + suffix).lower()) for suffix in suffixes)
    return next((path for path in found if path), usual)


def kind_of_release(root: Path) -> str:
    """nifti, mhd, or nothing, by the folders in `root`."""
    if (root / "database_nifti").is_dir() or (root / "database_split").is_dir():
        return "nifti"
    return "mhd" if any(patient_names(root / folder) for folder in ("training", "testing")) else ""


def find_release(root: Path) -> Release:
    """Recognise the release in `root` by its folders, and find its patients and what is wrong with its lists.

    Where `root` is not the release itself, but its folder above or one below it, that is the one taken: see
    `Release.root`. Raises UserError if there is none, or more than one.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    if not kind_of_release(root):
        root = _release_near(root)
    release = _find_nifti(root) if kind_of_release(root) == "nifti" else _find_mhd(root)
    present = {split for split, _ in release.people}
    release.problems += [Problem(f"subgroup {split} has no patients") for split in SPLITS if split not in present]
    return release


def _release_near(root: Path) -> Path:
    below = sorted(path for path in root.iterdir() if path.is_dir() and kind_of_release(path))
    above = [path for path in list(real_path(root).parents)[:2] if kind_of_release(path)]
    candidates = below or (above if root.name in RELEASE_FOLDERS or PATIENT.fullmatch(root.name) else [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(
            f"{root} holds several CAMUS releases: give one of {', '.join(path.name for path in candidates)}"
        )
    raise UserError(
        f"{root} is no CAMUS release: it needs database_nifti/ and database_split/ (NIfTI release), "
        "or training/ and testing/ with folders patientNNNN (MHD release)"
    )


def patient_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if PATIENT.fullmatch(path.name) and path.is_dir())


def _find_mhd(root: Path) -> Release:
    release = Release(root, "mhd")
    for patient in patient_names(root / "training"):
        split = "validation" if int(patient[7:]) <= MHD_VALIDATION else "training"
        release.people.append((split, patient))
    release.people += [("testing", patient) for patient in patient_names(root / "testing")]
    return release


def _find_nifti(root: Path) -> Release:
    release = Release(root, "nifti")
    listed: dict[str, list[str]] = {}
    for split in SPLITS:
        path = root / "database_split" / f"subgroup_{split}.txt"
        if not path.is_file():
            release.problems.append(Problem(f"{path} is missing"))
            continue
        try:
            names = read_list(path)
        except UserError as error:
            release.problems.append(Problem(str(error)))
            continue
        for name in dict.fromkeys(names):
            if PATIENT.fullmatch(name):
                listed.setdefault(name, []).append(split)
            else:
                release.problems.append(Problem(f"{path}: {name!r} is no patientNNNN"))
    for patient, splits in sorted(listed.items()):
        release.people.append((splits[0], patient))
        if len(splits) > 1:
            text = f"{patient} stands in the subgroup lists of {' and '.join(splits)}"
            release.problems.append(Problem(text, (splits[0], patient)))
    unlisted = [name for name in patient_names(root / "database_nifti") if name not in listed]
    release.problems += [Problem(f"{name} stands in no subgroup list", ("", name)) for name in unlisted]
    return release


def read_info(path: Path) -> tuple[dict[str, str], list[str]]:
    """image_quality, ef, edv_ml, esv_ml of an Info_*.cfg, empty where not given; and a warning for each of the numbers
    that is none, or none that can be.

    Numbers may have a decimal comma and a unit (53,3 %).
    """
    values: dict[str, str] = {}
    warnings = []
    if path.is_file():
        try:
            lines = read_text(path).splitlines()
        except UserError as error:
            lines = []
            warnings.append(str(error))
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found = {column: next((values[key] for key in keys if values.get(key)), "") for column, keys in INFO_KEYS.items()}
    for column in INFO_NUMBERS:
        text = found[column]
        match = INFO_NUMBER.fullmatch(text)
        number, largest = match[1].replace(",", ".") if match else "", INFO_LARGEST[column]
        found[column] = number if number and 0 < float(number) <= largest else ""
        if text and not found[column]:
            warnings.append(
                f"{path}: {column} is {text[:20]!r}, not a number above 0 and at most {largest}: left empty"
            )
    return found, warnings


def write_info(path: Path, values: dict[str, object]) -> None:
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))


def write_subgroups(root: Path, patients: dict[str, list[str]]) -> None:
    """The patient list of each split of a NIfTI release."""
    folder = root / "database_split"
    folder.mkdir(parents=True)
    for split, names in patients.items():
        (folder / f"subgroup_{split}.txt").write_text("".join(f"{name}\n" for name in names))

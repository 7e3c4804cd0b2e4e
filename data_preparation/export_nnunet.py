"""Write a view folder, real or synthetic, as an nnU-Net v2 data set, so that the field's default trainer can be fed."""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from command import UserError, YesNo, run_command
from dataset_description import METADATA, Description, camus, read_description
from input_files import real_path
from medical_writing import write_medical_image
from names import SPLITS
from outputs import new_folders
from parallel import default_workers, for_each
from resizing import native_step
from schema import check_settings
from view_folders import (
    SECTOR_ANNOTATIONS,
    Pair,
    check_labels,
    check_same_size,
    find_view_folders,
    is_view_folder,
    list_pairs,
    person_of,
    read_image,
    read_label,
    read_metadata,
    warn,
)

DATASET_NAME = re.compile(r"Dataset(?!000)\d{3}_\w+")
FOLDERS = {
    "training": ("imagesTr", "labelsTr"),
    "validation": ("imagesTr", "labelsTr"),
    "testing": ("imagesTs", "labelsTs"),
}
UNKNOWN_SPACING = (1.0, 1.0)  # what nnU-Net takes PNGs to have
# A 2-D NIfTI keeps the spacing of the pixels; nnU-Net takes PNGs as 1 x 1 mm.
SUFFIX, READER = ".nii.gz", "SimpleITKIO"


@dataclass
class ExportSettings:
    data_folder: Path
    """A view folder: made by extract_camus_data.py (real) or prepare_inference4segmentation.py (synthetic)."""
    save_folder: Path
    """The data set to make, in nnU-Net's folder of raw data: $nnUNet_raw/DatasetNNN_Name, as in Dataset501_Echo."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace save_folder (as a whole) if it is there already; otherwise that is an error."""


def spacing_of(row: Mapping[str, str], shape: tuple[int, int]) -> tuple[float, float]:
    """(depth, lateral) mm between pixels of a frame that now has `shape` (height, width), from its row of metadata.csv;
    a row that does not say how it was extracted was so as published, by `nearest`.

    Raises UserError if the row does not say how large its pixels are.
    """
    found, interpolation = [], row.get("image_interpolation") or "nearest"
    for axis, native, size in zip(("depth", "lateral"), ("height", "width"), shape, strict=True):
        try:
            step = native_step(int(row[f"native_{native}"]), size, interpolation)
            spacing = float(row[f"spacing_{axis}_mm"]) * step
        except (KeyError, TypeError, ValueError):
            spacing = math.nan
        found.append(spacing)
    if not all(math.isfinite(spacing) and spacing > 0 for spacing in found):
        raise UserError(f"{METADATA} does not say how large its pixels are (spacing_*_mm, native_height, native_width)")
    return found[0], found[1]


def export_pair(job: tuple[Pair, Mapping[str, str]], out: Path, description: Description, unknown: bool) -> str | None:
    """Write one frame and its label map below `out`; returns what is wrong with it. `unknown`: the size of a pixel."""
    pair, row = job
    try:
        image, label = read_image(pair.image), read_label(pair.label)
        check_same_size(pair.image, image, pair.label, label)
        check_labels(pair.label, label, description.num_classes)
    except UserError as error:
        return str(error)
    try:
        spacing_mm = UNKNOWN_SPACING if unknown else spacing_of(row, image.shape)
    except UserError as error:
        return f"{pair.image}: {error}"
    images, labels = FOLDERS[pair.stem.split]
    write_medical_image(out / images / f"{pair.stem}_0000{SUFFIX}", image, spacing_mm)
    write_medical_image(out / labels / f"{pair.stem}{SUFFIX}", label, spacing_mm)
    return None


def dataset_json(name: str, training_cases: int, description: Description) -> dict[str, object]:
    """What nnU-Net reads of a data set; an ultrasound channel has no rule of its own and is normalised by z-score."""
    return {
        "name": name,
        "description": description.about or description.name,
        "channel_names": {"0": description.modality},
        "labels": label_names(description),
        "numTraining": training_cases,
        "file_ending": SUFFIX,
        "overwrite_image_reader_writer": READER,
    }


def label_names(description: Description) -> dict[str, int]:
    """Values by name, as nnU-Net wants them: 0 is called background, and no name occurs twice."""
    found = {"background": 0}
    for value, one in enumerate(description.classes[1:], 1):
        name = (one.title or one.name).replace(" ", "_")
        found[f"{name}_{value}" if name in found else name] = value
    return found


def refuse_deformed(folder: Path, pairs: list[Pair]) -> None:
    """Raises UserError for a folder of deformed label maps, which lie beside images that they do not belong to."""
    deformed = [pair.stem for pair in pairs if pair.stem.repeat is not None]
    if deformed and (folder / SECTOR_ANNOTATIONS).is_dir():
        raise UserError(
            f"{folder}: {len(deformed)} label maps are deformed (as {deformed[0]}), their images are not: that is to "
            "sample from; give real frames, or the folder that prepare_inference4segmentation.py makes"
        )


def one_fold(
    pairs: list[Pair], known: Mapping[str, Mapping[str, str]], own: bool, problems: list[str]
) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json with a single fold: our training and validation frames. Patients in two splits, those
    of the test frames too, are problems; whether a name is one person in all of them: `person_of`."""
    people: dict[str, set[str]] = {split: set() for split in SPLITS}
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for stem in (pair.stem for pair in pairs):
        people[stem.split].add(person_of(stem.patient, stem.split, known.get(str(stem), {}), own))
        names[stem.split].append(str(stem))
    problems += [f"there are no {split} frames" for split in ("training", "validation") if not names[split]]
    problems += [
        f"{person} has frames in both {first} and {second}"
        for first, second in combinations(SPLITS, 2)
        for person in sorted(people[first] & people[second])
    ]
    return [{"train": sorted(names["training"]), "val": sorted(names["validation"])}]


def is_data_set(folder: Path) -> bool:
    """Whether this is a data set for nnU-Net, as written here, and nothing else."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    ours = {name for both in FOLDERS.values() for name in both} | {"dataset.json", "splits_final.json"}
    return "dataset.json" in names and names <= ours


def check_folders(settings: ExportSettings) -> None:
    """Raises UserError for a data_folder that is no view folder, and a save_folder that nnU-Net would not find."""
    if not DATASET_NAME.fullmatch(settings.save_folder.name):
        raise UserError(
            f"--save_folder {settings.save_folder}: nnU-Net wants a name like Dataset501_Echo "
            "(a number from 001 to 999, from 501 on free for one's own)"
        )
    views = find_view_folders(settings.data_folder)
    if not is_view_folder(settings.data_folder):
        names = ", ".join(view.name for view in views)
        raise UserError(f"--data_folder {settings.data_folder} holds several view folders: give one of {names}")
    data = real_path(settings.data_folder)
    if real_path(settings.save_folder) in (data, *data.parents):
        raise UserError(f"--save_folder {settings.save_folder}: {settings.data_folder}, read here, would be replaced")


def export_nnunet(settings: ExportSettings) -> None:
    """Make the data set. Raises UserError that lists all that is wrong with the input, before anything appears."""
    check_settings(settings)
    check_folders(settings)
    problems: list[str] = []
    description = read_description(settings.data_folder)
    pairs, known = list_pairs(settings.data_folder, problems), read_metadata(settings.data_folder)
    refuse_deformed(settings.data_folder, pairs)
    splits = one_fold(pairs, known, description != camus(), problems)
    jobs = [(pair, known.get(str(pair.stem), {})) for pair in pairs]
    unknown = description != camus() and not all(row.get("spacing_depth_mm") for _, row in jobs)
    if unknown and any(row.get("spacing_depth_mm") for _, row in jobs):
        warn(["the size of a pixel is known of some frames alone: 1 x 1 mm is written for all, which nnU-Net goes by"])
    name = settings.save_folder.name
    print(f"writing {len(pairs)} frames of {settings.data_folder} as nnU-Net's {name}", flush=True)
    with new_folders(settings.save_folder.parent, [name], settings.overwrite, is_data_set) as building:
        out = building / name
        for folder in sorted({folder for both in FOLDERS.values() for folder in both}):
            (out / folder).mkdir(parents=True)
        work = partial(export_pair, out=out, description=description, unknown=unknown)
        problems += filter(None, for_each(work, jobs, settings.num_workers, "frames"))
        if problems:
            raise UserError(f"{settings.data_folder} has {len(problems)} problems:", problems)
        training_cases = len(splits[0]["train"]) + len(splits[0]["val"])
        for file, content in (
            ("dataset.json", dataset_json(name, training_cases, description)),
            ("splits_final.json", splits),
        ):
            (out / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    counts = ", ".join(f"{sum(pair.stem.split == split for pair in pairs)} {split}" for split in SPLITS)
    number = name.removeprefix("Dataset").split("_")[0].lstrip("0")
    print(
        f"{counts} frames in {settings.save_folder}\n"
        f"next: nnUNetv2_plan_and_preprocess -d {number} -c 2d, then nnUNetv2_train {number} 2d 0 "
        "(fold 0 of splits_final.json, which planning copies to $nnUNet_preprocessed: our training and validation)"
    )


if __name__ == "__main__":
    sys.exit(run_command(export_nnunet, ExportSettings, description=__doc__))

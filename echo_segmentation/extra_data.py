"""Patients held out stay so: in --data-dir, and in --extra-data-dir, whose further training images are found here."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cases import SPLITS, Case, check_data_dir, description_of, find_cases, split_folder
from command import UserError
from dataset import read_image
from dataset_description import camus
from input_files import real_path

FLAG = "--extra-data-dir"
HELD_OUT = ("validation", "testing")
NAMED_SPLIT = re.compile(rf".*_({'|'.join(SPLITS)})(_+\d+)?(_+r\d+)?")
NIFTI_RELEASE = "database_nifti"
MOST_NAMED = 10


def find_extra(
    folders: Sequence[str], data_dir: str, cases: Mapping[str, Sequence[Case]], oversample: int = 1
) -> list[Case]:
    """The training cases of `folders`, to be added to those of `data_dir`, whose `cases` are given by split, and which
    a pass draws `oversample` times.

    Their validation and testing splits have no part in it. Raises UserError for a folder given twice, for one
    with other classes, and for images of a patient of `cases` that is held out.
    """
    found: dict[str, list[Case]] = {}
    places, own = {place_of(data_dir)}, description_of(data_dir) != camus()
    for folder in folders:
        check_data_dir(folder, FLAG)
        if place_of(folder) in places:
            raise UserError(f"{FLAG} {folder}: stands there twice, or is --data-dir itself")
        places.add(place_of(folder))
        refuse_other_classes(folder, data_dir)
        found[folder] = find_cases(folder, "training", flag=FLAG)
        refuse_leaks(folder, found[folder], cases, own)
    if found:
        tell({data_dir: cases["training"], **found}, {data_dir: oversample})
    return [case for of_folder in found.values() for case in of_folder]


def refuse_people_in_two_splits(data_dir: str, cases: Mapping[str, Sequence[Case]]) -> None:
    """Raises UserError if a patient of one split of `data_dir` is in another: `cases`, by split."""
    own = description_of(data_dir) != camus()
    seen: dict[str, dict[tuple[str, PurePosixPath], Case]] = {}  # of each patient, a case of each split and source
    shared: dict[str, str] = {}
    for split, found in cases.items():
        for case in (case for case in found if case.patient):
            before = seen.setdefault(case.patient, {})
            for (other_split, _), other in before.items():
                if other_split != split and (own or same_person(case, other)):
                    shared.setdefault(f"{case.patient} ({other_split}, {split})", f"{other.stem}, {case.stem}")
            before.setdefault((split, PurePosixPath(case.source).parent), case)
    if shared:
        problems = [f"{patient}: {stems}" for patient, stems in list(shared.items())[:MOST_NAMED]]
        rest = [f"and {len(shared) - MOST_NAMED} more"] if len(shared) > MOST_NAMED else []
        raise UserError(f"--data-dir {data_dir}: {len(shared)} patients are in two splits:", problems + rest)


def place_of(data_dir: str) -> Path:
    """What two ways of writing one folder have in common."""
    return real_path(split_folder(data_dir, "images", "training"))


def refuse_other_classes(folder: str, data_dir: str) -> None:
    """Raises UserError unless the labels of both folders mean the same: a value is the place of a class in the list."""
    theirs, ours = (", ".join(description_of(one).class_names) for one in (folder, data_dir))
    if theirs != ours:
        raise UserError(f"{FLAG} {folder}: other classes ({theirs}) than {data_dir} has ({ours})")


def refuse_leaks(folder: str, extra: Sequence[Case], cases: Mapping[str, Sequence[Case]], own: bool = False) -> None:
    """Raises UserError if one of `extra` shows a patient of validation or testing, naming them.

    Copies of such frames, and synthetic ones made from their label maps, count alike. Of one's `own` data a name of a
    patient is one person's, wherever the frames lie; the two CAMUS releases count patients anew.
    """
    held_out: dict[str, list[tuple[str, Case]]] = {}
    for split in HELD_OUT:
        for case in cases.get(split, ()):
            held_out.setdefault(case.patient, []).append((split, case))
    leaks: dict[str, str] = {}
    for case in extra:
        named = split_in_name(case)
        if named in HELD_OUT:
            leaks.setdefault(f"{case.patient or case.stem} ({named})", case.stem)
        for split, other in held_out.get(case.patient, ()) if case.patient else ():
            if own or same_person(case, other):
                leaks.setdefault(f"{case.patient} ({split})", case.stem)
                break
    if leaks:
        problems = [f"{patient}: {stem}" for patient, stem in list(leaks.items())[:MOST_NAMED]]
        rest = [f"and {len(leaks) - MOST_NAMED} more"] if len(leaks) > MOST_NAMED else []
        text = f"{FLAG} {folder}: training images of {len(leaks)} patients that are kept for validation or test"
        raise UserError(f"{text}; leave these out:", problems + rest)
    unknown = [case.stem for case in extra if not case.patient]
    if unknown:
        text = f"{FLAG} {folder}: it is not known which patients {len(unknown)} images show, {unknown[0]} for one"
        print(f"warning: {text}: none of them may be kept for validation or test", file=sys.stderr)


def split_in_name(case: Case) -> str:
    match = NAMED_SPLIT.fullmatch(case.stem)
    return match[1] if match else ""


def same_person(case: Case, other: Case) -> bool:
    """Whether two cases with the same name of a patient show one person. Where metadata.csv tells, by the folder in the
    release; otherwise names of two splits are two people, for the older CAMUS release counts anew in testing. Where one
    is of the NIfTI release, whose patients have one number each, the name tells, but of testing in the older one.
    """
    elsewhere = [one for one in (case, other) if NIFTI_RELEASE not in PurePosixPath(one.source).parts]
    if len(elsewhere) < 2:
        return not any("testing" in (*PurePosixPath(one.source).parts, split_in_name(one)) for one in elsewhere)
    if case.source and other.source:
        return PurePosixPath(case.source).parent == PurePosixPath(other.source).parent
    named = split_in_name(case), split_in_name(other)
    return not all(named) or named[0] == named[1]


def tell(training: Mapping[str, Sequence[Case]], times: Mapping[str, int]) -> None:
    """How many training images come from where, each drawn so many `times` in a pass; and if they were made at several
    sizes, which a network may notice."""
    counts = {folder: len(found) for folder, found in training.items()}
    often = {folder: f" ({times[folder]} times each)" for folder in times if times[folder] > 1}
    told = ", ".join(f"{count} of {folder}{often.get(folder, '')}" for folder, count in counts.items())
    print(f"training images: {told}; {sum(count * times.get(folder, 1) for folder, count in counts.items())} in all")
    sizes = {folder: read_image(found[0].image).shape for folder, found in training.items()}
    if len(set(sizes.values())) > 1:
        named = ", ".join(f"{height} x {width} in {folder}" for folder, (height, width) in sizes.items())
        print(f"warning: training images differ in size before they are brought to one: {named}", file=sys.stderr)

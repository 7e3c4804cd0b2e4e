"""Images to predict, without labels: found in files and folders, checked, and read."""

import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command import UserError
from input_files import walk_once
from medical_images import MedicalImage, is_medical_image, is_utf8, read_medical_image, without_suffix
from picture_files import decode_image, is_picture, passed_over, read_bytes
from progress import track

LABEL_ENDING = "_gt"
MHD_DATA = (".raw", ".zraw")
NAME = re.compile(r"(?P<patient>.+?)_(?P<view>2CH|4CH)(_(?P<phase>ED|ES))?(_.*)?")


@dataclass(frozen=True)
class Recording:
    """An image file: one frame or a sequence. What its name does not tell, as patient0001_4CH_ED, is empty."""

    path: Path
    frames: int
    patient: str = ""
    view: str = ""
    phase: str = ""

    @property
    def name(self) -> str:
        return without_suffix(self.path)

    @property
    def is_medical(self) -> bool:
        """Whether it is a NIfTI or MHD file, which has a geometry; a picture has none."""
        return is_medical_image(self.path)

    def frame_name(self, index: int) -> str:
        """The name, with the number of the frame in a sequence."""
        return self.name if self.frames == 1 else f"{self.name}_{index:0{len(str(self.frames - 1))}}"

    def read(self) -> MedicalImage:
        """The grey values, with their geometry; a PNG file has none. Raises UserError for what cannot be read."""
        if self.is_medical:
            return read_medical_image(self.path)
        return MedicalImage(self.path, decode_image(read_bytes(self.path), str(self.path)), None)


def find_recordings(inputs: Sequence[Path], spacing_given: bool = False) -> list[Recording]:
    """All images of `inputs`, files and folders, sorted by name.

    Raises UserError that lists every problem: what is not there, holds no image or cannot be read, pictures in colour,
    names that occur twice, and patients with several files of one view, of which nobody knows what belongs together.
    """
    paths, problems = [], []
    for given in inputs:
        found = images_in(given) if given.is_dir() else [given]
        if given.is_dir() and (left := passed_over(given, other_files(given))):
            print(f"warning: {left}", file=sys.stderr)
        if not found:
            problems.append(f"{given}: no picture, NIfTI or MHD files in this folder")
        paths += found
    recordings = []
    paths = sorted(set(paths), key=lambda path: (path.name, path))
    for path in track(paths, "reading", len(paths), "file", keep=False):
        try:
            recordings.append(describe(path))
        except UserError as error:
            problems.append(str(error))
    problems += ambiguities(recordings, spacing_given)
    if problems:
        raise UserError(f"--input: {len(problems)} problems:", problems)
    return recordings


def images_in(folder: Path) -> list[Path]:
    """Image files in a folder and its subfolders, but neither hidden ones nor label maps (*_gt)."""
    return [path for path in files_below(folder) if is_image(path) and not without_suffix(path).endswith(LABEL_ENDING)]


def other_files(folder: Path) -> list[str]:
    """Names of the files in a folder and its subfolders that are no images, nor the data that belong to MHD headers."""
    files = files_below(folder)
    return [path.name for path in files if not is_image(path) and path.suffix.lower() not in MHD_DATA]


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders, links too; nothing that is hidden."""
    below = (Path(parent) / name for parent, _, names in walk_once(folder) for name in names)
    return [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def is_image(path: Path) -> bool:
    """Whether the name ends like a picture, NIfTI or MHD file."""
    return is_picture(path) or is_medical_image(path)


def describe(path: Path) -> Recording:
    """A file, read once to see that it can be. Raises UserError if it cannot."""
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such file or folder")
    if not is_utf8(path.name):
        raise UserError(f"{ascii(str(path))}: the name is no UTF-8, and could not stand in a table")
    if not is_image(path):
        raise UserError(f"{path}: neither picture, NIfTI nor MHD, by its name")
    match = NAME.fullmatch(without_suffix(path))
    known = {name: (match[name] if match else "") or "" for name in ("patient", "view", "phase")}
    frames = len(Recording(path, 1).read().frames)
    if frames == 0:
        raise UserError(f"{path}: has no frames")
    return Recording(path, frames, **known)


def shared_frame_names(recordings: Sequence[Recording]) -> list[str]:
    """A line for each name that a frame of a sequence would have, and another file has: results are called so."""
    paths: dict[str, list[str]] = {}
    for one in recordings:
        for index in range(one.frames):
            paths.setdefault(one.frame_name(index), []).append(str(one.path))
    return [f"{name}: the name of frames of {' and of '.join(of)}" for name, of in paths.items() if len(of) > 1]


def ambiguities(recordings: Sequence[Recording], spacing_given: bool) -> list[str]:
    """A line for each name that occurs twice, and for each patient's view (or phase of it) that stands in two files,
    if they are measured: pictures are not, unless the size of a pixel is given."""
    counts = Counter(recording.name for recording in recordings)
    problems = [f"{name}: {count} files of this name" for name, count in counts.items() if count > 1]
    problems += shared_frame_names([one for one in recordings if counts[one.name] == 1])
    groups: dict[str, list[Recording]] = {}
    for one in recordings:
        if (one.is_medical or spacing_given) and one.view and counts[one.name] == 1 and (one.frames > 1 or one.phase):
            kind = "sequence" if one.frames > 1 else one.phase
            groups.setdefault(f"{one.patient}, {one.view}, {kind}", []).append(one)
    for group, found in groups.items():
        if len(found) > 1:
            problems.append(f"{group}: {len(found)} files, {', '.join(str(one.path) for one in found)}")
    return problems

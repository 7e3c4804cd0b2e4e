"""What predictions are compared with, on which grid: reference labels at the network's size, or as they were drawn.

The two classes here answer the same questions: the image and reference label of a case, its spacing, and a network's
class probabilities, or somebody's label map, on the grid of the reference.
"""

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cases import SPLITS, Case
from command import UserError
from dataset import CaseSet, resize_annotation
from geometry import native_probabilities, native_step, nearest_indices, one_hot
from input_files import real_path
from medical_images import MedicalImage, is_medical_image, read_frame, unknown_spacing, without_suffix

DIRECTION_TOLERANCE = 1e-3  # of direction cosines, which files round
REAL_STEM = re.compile(rf"patient\d+_[^_]+_(ED|ES)(_({'|'.join(SPLITS)}))?")


class NetworkFrames:
    """Reference labels at the size at which the network sees the images."""

    def __init__(self, case_set: CaseSet, spacing_mm: Sequence[float] = ()):
        self.case_set = case_set
        if spacing_mm:
            refuse_unknown_sizes(case_set.cases)
        self.cases = [with_spacing(case, spacing_mm) for case in case_set.cases]
        self.in_mm = all(case.extent_mm for case in self.cases)
        self.unit = f"{'mm' if self.in_mm else 'px'}@{case_set.size}"
        """Of distances. The size belongs to it: borders are no finer than the pixels."""

    def __len__(self) -> int:
        return len(self.cases)

    def image(self, index: int) -> np.ndarray:
        """Grey values, (height, width) uint8."""
        return self.case_set[index][0]

    def label(self, index: int) -> np.ndarray:
        """Reference classes, (height, width) uint8."""
        return self.case_set[index][1]

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """Depth and lateral distance of pixel centres (rows, columns), if the size of the frame is known: native pixels
        between those of the extraction, by its rule, and these resized to the network's size."""
        case = self.cases[index]
        if case.extent_mm is None:
            return None
        axes = zip(case.extent_mm, case.native_size, size_on_disk(case), strict=True)
        steps = [(mm / native) * native_step(native, size, case.alignment) * size for mm, native, size in axes]
        return steps[0] / self.case_set.size, steps[1] / self.case_set.size

    def from_network(self, index: int, probabilities: np.ndarray) -> np.ndarray:
        """Class probabilities (classes, size, size): they lie on the grid of the reference as they are."""
        return probabilities

    def from_png(self, index: int, labels: np.ndarray) -> np.ndarray:
        """A label map of any size that covers the frame -> labels (size, size) uint8."""
        return resize_annotation(labels, self.case_set.size)

    def from_medical(self, index: int, image: MedicalImage) -> np.ndarray:
        """A label map in the geometry of the frame's own file, which is not at hand -> labels (size, size) uint8."""
        case, labels = self.cases[index], image.frames[0]
        if labels.shape == size_on_disk(case):
            return self.from_png(index, labels)
        if case.native_size and labels.shape != case.native_size:
            raise UserError(other_shape(labels.shape, case.native_size, size_on_disk(case)))
        if case.alignment == "nearest":  # as the reference was extracted
            labels = labels[np.ix_(*map(nearest_indices, labels.shape, size_on_disk(case)))]
        return resize_annotation(labels, self.case_set.size)


class NativeFrames:
    """Reference labels of the data set itself, at the resolution at which they were drawn.

    The size of a pixel is the one given by hand, here or at the extraction, which metadata.csv has recorded; else the
    file's.

    Raises UserError, listing every case, where `metadata.csv` names no source, a file is not there or cannot be read,
    sizes disagree, or a case is a deformed copy, whose label the data set does not have.
    """

    def __init__(self, cases: Sequence[Case], native_dir: Path, num_classes: int, spacing_mm: Sequence[float] = ()):
        self.cases, native_dir = cases, release_near(native_dir, cases)
        by_hand = (spacing_mm[0], spacing_mm[-1]) if spacing_mm else None
        self.paths, self.spacings, problems = [], [], []
        overruled = []
        for case in cases:
            try:
                self.paths.append(source_files(case, native_dir))
                image, label = (read_frame(path) for path in self.paths[-1])
                _check(case, image, label, num_classes)
                self.spacings.append(by_hand or chosen_spacing(case, image))
                if self.spacings[-1] is None:
                    print(f"warning: {unknown_spacing(image.path, image)}", file=sys.stderr)
                elif not by_hand and image.spacing_mm and self.spacings[-1] != image.spacing_mm:
                    overruled.append(f"{case.stem}: {told_size(self.spacings[-1])}, not {told_size(image.spacing_mm)}")
            except UserError as error:
                problems.append(f"{case.stem}: {error}")
        if problems:
            raise UserError(f"--native-dir {native_dir}: {len(problems)} cases cannot be compared there:", problems)
        if overruled:
            told = f"the pixel size of metadata.csv is taken for {len(overruled)} frames whose files say another"
            print(f"warning: {told} ({overruled[0]}); --spacing-mm would overrule both", file=sys.stderr)
        self.in_mm = all(self.spacings)
        self.unit = "mm" if self.in_mm else "px"
        """Of distances."""

    def __len__(self) -> int:
        return len(self.cases)

    def source(self, index: int) -> MedicalImage:
        """The image as in the data set, with its geometry."""
        return read_frame(self.paths[index][0])

    def image(self, index: int) -> np.ndarray:
        """Grey values, (height, width) uint8."""
        return self.source(index).frames[0]

    def label(self, index: int) -> np.ndarray:
        """Reference classes, (height, width) uint8."""
        return read_frame(self.paths[index][1]).frames[0]

    def spacing_mm(self, index: int) -> tuple[float, float] | None:
        """Depth and lateral distance of pixel centres (rows, columns), if it is known."""
        return self.spacings[index]

    def name(self, index: int) -> str:
        """<patient>_<view>_<phase>, as the data set calls the frame."""
        return without_suffix(self.paths[index][0])

    def from_network(self, index: int, probabilities: np.ndarray) -> np.ndarray:
        """Class probabilities (classes, size, size) -> the same on the frame's own grid."""
        case = self.cases[index]
        return native_probabilities(probabilities, self.label(index).shape, case.alignment, size_on_disk(case))

    def from_png(self, index: int, labels: np.ndarray) -> np.ndarray:
        """A label map that lies on the extracted image, at any size -> labels on the frame's own grid, uint8."""
        return self.from_network(index, one_hot(labels)).argmax(0).astype(np.uint8)

    def from_medical(self, index: int, image: MedicalImage) -> np.ndarray:
        """A label map in the geometry of the frame's own file, or of the extracted image -> labels on that grid, uint8.

        Raises UserError for one of another shape, or whose axes have another direction.
        """
        source, labels = self.source(index), image.frames[0]
        native, extracted = source.frames.shape[1:], size_on_disk(self.cases[index])
        on_frame = labels.shape == native
        refuse_other_direction(image, source, extracted=not on_frame and labels.shape == extracted)
        if on_frame:
            return labels
        if labels.shape != extracted:
            raise UserError(other_shape(labels.shape, native, extracted))
        return self.from_png(index, labels)


Frames = NetworkFrames | NativeFrames


def other_shape(shape: tuple[int, ...], native: tuple[int, int], extracted: tuple[int, int]) -> str:
    """That a label map lies neither on its frame nor on the image extracted from it."""
    sizes = [" x ".join(map(str, one)) for one in (shape, native, extracted)]
    return f"it has {sizes[0]} pixels, the frame {sizes[1]}, and what was extracted from it {sizes[2]}"


def in_plane(direction: Sequence[float]) -> np.ndarray:
    """Where the lateral and the depth axis point: the columns of a (2, 2) float64, of 2 or 3 dimensions."""
    axes = math.isqrt(len(direction))
    return np.reshape(direction, (axes, axes))[:2, :2]


def refuse_other_direction(image: MedicalImage, source: MedicalImage, extracted: bool) -> None:
    """Raises UserError for a label map whose axes do not point where those of its frame do, which would be compared
    mirrored or turned. One of the `extracted` size may have the identity, too, as what export_nnunet.py writes.
    """
    if not (image.direction and source.direction):
        return
    theirs, ours = in_plane(image.direction), in_plane(source.direction)
    if any(np.allclose(theirs, one, rtol=0, atol=DIRECTION_TOLERANCE) for one in (ours, *[np.eye(2)] * extracted)):
        return
    told = [" ".join(f"{value:.4g}" for value in one.ravel()) for one in (theirs, ours)]
    raise UserError(
        f"{image.path}: its axes have the direction {told[0]}, those of the frame ({source.path}) {told[1]}: bring it "
        "to the frame's grid"
    )


def size_on_disk(case: Case) -> tuple[int, int]:
    """Rows and columns of a case's image file."""
    with Image.open(case.image) as image:
        return image.size[::-1]


def release_near(folder: Path, cases: Sequence[Case]) -> Path:
    """`folder`, or the one folder above or below it where the sources of `cases` are, as the extraction finds it."""
    source = next((case.source for case in cases if case.source), "")
    if not folder.is_dir() or os.path.exists(folder / source):
        return folder
    near = [*(path for path in folder.iterdir() if path.is_dir()), *real_path(folder).parents[:2]]
    found = [path for path in near if os.path.exists(path / source)]  # False where it may not be looked into
    if len(found) != 1:
        return folder
    print(f"the native frames of {folder} are in {found[0]}")
    return found[0]


def source_files(case: Case, native_dir: Path) -> tuple[Path, Path]:
    """Image and label file of a case in the release it was extracted from.

    Raises UserError if metadata.csv names none, or something outside of the release.
    """
    if not case.source:
        raise UserError("metadata.csv names no source")
    if not REAL_STEM.fullmatch(case.stem):
        raise UserError("the name is that of a deformed copy, which has no native label")
    relative = PurePosixPath(case.source)
    if relative.is_absolute() or ".." in relative.parts or not is_medical_image(relative):
        raise UserError(f"the source {case.source!r} is no MHD or NIfTI file within the release")
    path = native_dir / relative
    stem = without_suffix(path)
    return path, path.with_name(f"{stem}_gt{path.name[len(stem) :]}")


def _check(case: Case, image: MedicalImage, label: MedicalImage, num_classes: int) -> None:
    sizes = [found.frames.shape[1:] for found in (image, label)]
    if sizes[0] != sizes[1]:
        raise UserError(f"the image is {sizes[0]}, its label {sizes[1]} (rows, columns)")
    if case.native_size and case.native_size != sizes[0]:
        raise UserError(f"{image.path} is {sizes[0]}, in metadata.csv {case.native_size}: another release?")
    if (top := int(label.pixels.max())) >= num_classes:
        raise UserError(f"{label.path}: class {top}, beyond 0 .. {num_classes - 1}")


def chosen_spacing(case: Case, image: MedicalImage) -> tuple[float, float] | None:
    """(depth, lateral) mm of a pixel of the frame: where metadata.csv and the file disagree by more than rounding,
    somebody has given it by hand at the extraction."""
    if not (case.extent_mm and case.native_size):
        return image.spacing_mm
    recorded = case.extent_mm[0] / case.native_size[0], case.extent_mm[1] / case.native_size[1]
    return image.spacing_mm if image.spacing_mm and np.allclose(recorded, image.spacing_mm, rtol=1e-3) else recorded


def told_size(spacing_mm: tuple[float, float]) -> str:
    return f"{spacing_mm[0]:.4g} x {spacing_mm[1]:.4g} mm"


def refuse_unknown_sizes(cases: Sequence[Case]) -> None:
    """Raises UserError if it is not known of how many pixels of a given size a frame was."""
    unknown = [case.stem for case in cases if case.native_size is None]
    if unknown:
        raise UserError(
            f"--spacing-mm is of a pixel of the frames as recorded, and metadata.csv does not say how many rows and "
            f"columns these were (native_height, native_width) of {len(unknown)} cases, {unknown[0]} for one"
        )


def with_spacing(case: Case, spacing_mm: Sequence[float]) -> Case:
    """The case with the size of a pixel of its frame, (depth, lateral) mm, given by hand, if it is."""
    if not spacing_mm:
        return case
    return replace(case, extent_mm=(case.native_size[0] * spacing_mm[0], case.native_size[1] * spacing_mm[-1]))


def choose_frames(
    native_dir: Path | None, case_set: CaseSet, num_classes: int, spacing_mm: Sequence[float] = ()
) -> Frames:
    """On the frames' own grid if the release is given, otherwise at the network's size."""
    if native_dir is None:
        return NetworkFrames(case_set, spacing_mm)
    return NativeFrames(case_set.cases, native_dir, num_classes, spacing_mm)

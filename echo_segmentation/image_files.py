"""Frames and label maps in MHD and NIfTI files, 2-D and sequences, read with their geometry and written back in it.

Axis order in here: [depth, lateral], or [frame, depth, lateral] for a file of three dimensions; depth is the axis of
the rows, as in the PNG files. The files themselves count the lateral axis first.
"""

import gzip
import math
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import UserError, whole_file

SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha")


@dataclass(frozen=True)
class MedicalImage:
    """Pixels of a file, and where they lie."""

    path: Path
    pixels: np.ndarray
    """uint8, [depth, lateral] or [frame, depth, lateral], as many dimensions as the file has."""
    spacing: tuple[float, ...]
    """Of the file: lateral and depth in mm, then of the frames if it has three dimensions."""
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def frames(self) -> np.ndarray:
        """Always [frame, depth, lateral]: one frame if the file is one."""
        return self.pixels.reshape(-1, *self.pixels.shape[-2:])

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance of pixel centres along (depth, lateral)."""
        return self.spacing[1], self.spacing[0]


def is_medical_image(path: Path) -> bool:
    """Whether the name ends like an MHD or NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def without_suffix(path: Path) -> str:
    """The name without its ending, be it .png, .mhd or the double .nii.gz."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def read_medical_image(path: Path) -> MedicalImage:
    """Frames or label maps of 8-bit values. Raises UserError for what is not there, not whole, or something else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO("NiftiImageIO" if ".nii" in path.suffixes else "MetaImageIO")  # not by what it looks like
        reader.ReadImageInformation()
        _check_length(path, reader)
        image = reader.Execute()
    except (RuntimeError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {str(error).strip().splitlines()[-1]}") from None
    pixels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() != 1 or pixels.ndim not in (2, 3):
        size = " x ".join(map(str, image.GetSize()))
        raise UserError(f"{path}: neither a grey frame nor a sequence of them: its size is {size}")
    with np.errstate(invalid="ignore"):
        as_bytes = pixels.astype(np.uint8)
    if not np.array_equal(as_bytes, pixels):
        raise UserError(f"{path}: has values that are no whole numbers from 0 to 255")
    return MedicalImage(path, as_bytes, image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _check_length(path: Path, reader: sitk.ImageFileReader) -> None:
    """SimpleITK reads a truncated NIfTI file without a word and fills the rest with zeros. Raises EOFError for one."""
    if not reader.HasMetaDataKey("bitpix"):
        return  # no NIfTI: SimpleITK notices
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    start, bits = float(reader.GetMetaData("vox_offset")), int(reader.GetMetaData("bitpix"))
    expected = int(start) + math.prod(reader.GetSize()) * bits // 8
    if len(content) < expected:
        raise EOFError(f"truncated, {len(content)} bytes of {expected}")


def read_frame(path: Path) -> MedicalImage:
    """As `read_medical_image`, for a file that must hold one frame: in two dimensions, or three with a single slice."""
    image = read_medical_image(path)
    if len(image.frames) != 1:
        raise UserError(f"{path}: a single frame expected, it has {len(image.frames)}")
    return image


def write_like(path: Path, labels: np.ndarray, like: MedicalImage) -> None:
    """Write label maps, uint8 in the shape of `like.pixels` or of its `frames`, in its geometry: NIfTI (.nii.gz)."""
    image = sitk.GetImageFromArray(labels.reshape(like.pixels.shape).astype(np.uint8))
    image.SetSpacing(like.spacing)
    image.SetOrigin(like.origin)
    image.SetDirection(like.direction)
    with (
        whole_file(path) as temporary,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=".tmp") as folder,
    ):
        file = Path(folder) / "labels.nii.gz"  # the format goes by the double suffix
        sitk.WriteImage(image, str(file), useCompression=True)
        read_medical_image(file)  # a full disk goes unnoticed otherwise
        shutil.copyfile(file, temporary)

"""Reading and writing 2-D medical images (MHD and NIfTI) with the errors that SimpleITK itself does not notice."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import UserError

NIFTI_HEADER = 348  # bytes of the header of NIfTI-1


@dataclass(frozen=True)
class MedicalImage:
    pixels: np.ndarray  # uint8 [depth, lateral]
    spacing_mm: tuple[float, float]  # (depth, lateral) size of a pixel


def read_medical_image(path: Path) -> MedicalImage:
    """One frame, 2-D or 3-D with one slice. Raises UserError (missing, empty, truncated, no 8-bit frame)."""
    if not path.is_file():
        raise UserError(f"{path} is missing")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    _check_gzip(path) if path.suffix == ".gz" else _check_mhd(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read: {str(error).strip().splitlines()[-1]}") from None
    pixels = sitk.GetArrayViewFromImage(image)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or image.GetNumberOfComponentsPerPixel() != 1:
        size = " x ".join(map(str, image.GetSize()))
        raise UserError(f"{path} is no single grey frame: its size is {size}")
    as_bytes = pixels.astype(np.uint8)
    if pixels.dtype != np.uint8 and not np.array_equal(as_bytes, pixels):
        raise UserError(f"{path} has values that are no whole numbers from 0 to 255")
    lateral, depth = image.GetSpacing()[:2]
    return MedicalImage(as_bytes, (depth, lateral))


def _check_gzip(path: Path) -> None:
    """SimpleITK reads a truncated .nii.gz without a word and fills the rest with zeros."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from None
    headers = {order: struct.unpack_from(f"{order}i", content.ljust(4))[0] for order in "<>"}
    order = next((order for order, length in headers.items() if length == NIFTI_HEADER <= len(content)), None)
    if order is None:
        return  # no NIfTI-1: SimpleITK will say what it is
    axes, *sizes = struct.unpack_from(f"{order}8h", content, 40)
    bits, start = struct.unpack_from(f"{order}h", content, 72)[0], struct.unpack_from(f"{order}f", content, 108)[0]
    if not math.isfinite(start):
        raise UserError(f"{path} is damaged: its data start at {start}")
    expected = int(start) + math.prod(sizes[:axes]) * bits // 8
    if len(content) < expected:
        raise UserError(f"{path} is truncated: {len(content)} bytes of {expected}")


def _check_mhd(path: Path) -> None:
    """The data file must be there and, if not compressed, have the size that the header says."""
    lines = path.read_bytes().decode(errors="replace").splitlines()
    header = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    name = header.get("ElementDataFile", "")
    if not name:
        raise UserError(f"{path} is no MHD header: it names no ElementDataFile")
    data = path.parent / name
    if name == "LOCAL":
        return
    if not data.is_file():
        raise UserError(f"{data} is missing")
    if header.get("CompressedData", "False") == "False" and header.get("ElementType") == "MET_UCHAR":
        try:
            expected = math.prod(int(n) for n in header.get("DimSize", "0").split())
        except ValueError:
            raise UserError(f"{path} is no MHD header: DimSize = {header['DimSize']}") from None
        if data.stat().st_size < expected:
            raise UserError(f"{data} is truncated: {data.stat().st_size} bytes of {expected}")
    elif header.get("CompressedData") == "True":
        try:
            zlib.decompress(data.read_bytes())
        except zlib.error as error:
            raise UserError(f"{data} is truncated or damaged: {error}") from None


def write_medical_image(path: Path, pixels: np.ndarray, spacing_mm: tuple[float, float]) -> None:
    """Write uint8 `pixels` [depth, lateral] with `spacing_mm` (depth, lateral): NIfTI 2-D, MHD 3-D with one slice.

    Raises UserError if it cannot be written whole.
    """
    mhd = path.suffix == ".mhd"
    image = sitk.GetImageFromArray(pixels[None] if mhd else pixels)
    image.SetSpacing((spacing_mm[1], spacing_mm[0], 1.0)[: image.GetDimension()])
    try:
        sitk.WriteImage(image, str(path), useCompression=not mhd)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written: {str(error).strip().splitlines()[-1]}") from None
    _check_mhd(path) if mhd else _check_gzip(path)  # a full disk goes unnoticed otherwise

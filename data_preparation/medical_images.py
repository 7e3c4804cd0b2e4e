"""Frames, sequences and label maps in MHD and NIfTI files: whole, 8-bit, with a geometry that can be believed, or
refused in one line.

This small file stands in data_preparation and in echo_segmentation, which do not import one another; what it takes and
refuses is docs/on_disk.md. Axis order in here: [depth, lateral], or [frame, depth, lateral] for a file of three
dimensions; the files themselves count the lateral axis first. SimpleITK reads; what it passes over without a word
(truncated data, sizes of pixels that are none) is looked at here first.
"""

import gzip
import math
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import SimpleITK as sitk

from command import UserError
from picture_files import inflated_size

SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha")
MOST_BYTES, MOST_VALUES = 1 << 28, 1 << 26  # of all data in a file
FIELD_OF_VIEW_MM = (30, 400)  # of echocardiography, along either axis
AT_ONCE = 1 << 20

NIFTI_HEADER, NIFTI_DATA = 348, 352  # bytes of a NIfTI-1 header, and where data begin at the earliest
NIFTI_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}  # by data type
NIFTI_FLOATS = {16: "f4", 64: "f8"}
MHD_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}
MHD_BYTES |= {"LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8}
MHD_HEADER_AT_MOST = 1 << 16


@dataclass(frozen=True)
class MedicalImage:
    """Pixels of a file, and where they lie."""

    path: Path
    pixels: np.ndarray
    """uint8, [depth, lateral] or [frame, depth, lateral], as many dimensions as the file has."""
    spacing_mm: tuple[float, float] | None
    """Distance of pixel centres along (depth, lateral); None where what the file says cannot be believed."""
    spacing: tuple[float, ...] = ()
    """As the file has it: lateral and depth, then of the frames if it has three dimensions."""
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()

    @property
    def frames(self) -> np.ndarray:
        """Always [frame, depth, lateral]: one frame if the file is one."""
        return self.pixels.reshape(-1, *self.pixels.shape[-2:])


@dataclass(frozen=True)
class Header:
    """What a file says of itself: how many values, and the sizes of a pixel, lateral and depth."""

    values: int
    spacing: tuple[float, ...]


def is_medical_image(path: Path) -> bool:
    """Whether the name ends like an MHD or NIfTI file, in any case of letters."""
    return path.name.lower().endswith(SUFFIXES)


def without_suffix(path: Path) -> str:
    """The name without its ending, be it .png, .mhd or the double .nii.gz."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def is_utf8(name: str) -> bool:
    """Whether a name can be written into a table, and handed to SimpleITK: names may have bytes of other encodings."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_medical_image(path: Path) -> MedicalImage:
    """Frames or label maps of 8-bit values. Raises UserError for what is not there, not whole, or something else."""
    if not is_utf8(str(path)):
        raise UserError(f"{ascii(str(path))}: a name in this path is no UTF-8, which SimpleITK cannot open")
    if not path.is_file():
        raise UserError(f"{path} is missing, or no file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    try:
        header = (_check_nifti if nifti else _check_mhd)(path)
        image = _read_nifti(path) if nifti else _read(path, "MetaImageIO")
    except (RuntimeError, EOFError, OSError, zlib.error, ValueError, OverflowError, struct.error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be read: {reason[-1]}") from None
    pixels = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() != 1 or pixels.ndim not in (2, 3) or header.values != pixels.size:
        size = " x ".join(map(str, image.GetSize()))
        raise UserError(f"{path} is neither a grey frame nor a sequence of them: its size is {size}")
    with np.errstate(invalid="ignore"):
        as_bytes = pixels.astype(np.uint8)
    if not np.array_equal(as_bytes, pixels):
        raise UserError(f"{path} has values that are no whole numbers from 0 to 255")
    spacing_mm = believed_spacing(header.spacing, image.GetSpacing(), pixels.shape[-2:])
    return MedicalImage(path, as_bytes, spacing_mm, image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_frame(path: Path) -> MedicalImage:
    """As `read_medical_image`, for a file that must hold one frame: in two dimensions, or three with a single slice."""
    image = read_medical_image(path)
    if len(image.frames) != 1:
        raise UserError(f"{path} holds {len(image.frames)} frames; expected is a single one")
    return image


def believed_spacing(
    written: tuple[float, ...], spacing: tuple[float, ...], shape: tuple[int, int]
) -> tuple[float, float] | None:
    """(depth, lateral) mm of a pixel, or None.

    `written` is what the header says, `spacing` the same in mm, lateral first; `shape` is (rows, columns). Not believed
    are sizes that are no positive numbers, 1 x 1 (what is written where nobody knew), and a field of view that no
    echocardiography has (FIELD_OF_VIEW_MM).
    """
    if len(written) < 2 or not all(math.isfinite(mm) and mm > 0 for mm in written[:2]):
        return None
    lateral, depth = spacing[:2]
    low, high = FIELD_OF_VIEW_MM
    extents = (depth * shape[0], lateral * shape[1])
    return None if (lateral, depth) == (1, 1) or not all(low <= mm <= high for mm in extents) else (depth, lateral)


def unknown_spacing(path: Path, image: MedicalImage) -> str:
    """The warning that belongs to a `spacing_mm` of None."""
    lateral, depth = image.spacing[:2]
    rows, columns = image.pixels.shape[-2:]
    return (
        f"{path}: pixels of {depth:g} x {lateral:g} mm, a field of view of {depth * rows / 10:.4g} x "
        f"{lateral * columns / 10:.4g} cm, are not believed: their size is taken for unknown"
    )


def _read(path: Path, reader_name: str) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(reader_name)  # not by what it looks like
    return reader.Execute()


def _read_nifti(path: Path) -> sitk.Image:
    """SimpleITK goes by the spelling of the ending; under .nii.gz it reads compressed and plain files alike."""
    if path.name.endswith(".nii.gz"):
        return _read(path, "NiftiImageIO")
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "image.nii.gz"
        link.symlink_to(path.resolve())
        return _read(link, "NiftiImageIO")


def _check_nifti(path: Path) -> Header:
    """Raises EOFError, OSError, ValueError or zlib.error unless header and length of the data agree (NIfTI-1)."""
    if path.stat().st_size > MOST_BYTES + AT_ONCE:
        raise ValueError(f"of {path.stat().st_size} bytes, more than are read ({MOST_BYTES})")
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if compressed else open(path, "rb") as file:
        content = file.read(NIFTI_DATA)
        if len(content) < NIFTI_DATA:
            raise EOFError("truncated within its header")
        order = next((o for o in "<>" if struct.unpack_from(f"{o}i", content)[0] == NIFTI_HEADER), None)
        if order is None or content[344:348] != b"n+1\0":
            raise ValueError("no NIfTI-1 file: its header is not one of 348 bytes, or marked otherwise")
        axes, *sizes = struct.unpack_from(f"{order}8h", content, 40)
        kind, bits = struct.unpack_from(f"{order}2h", content, 70)
        spacing = struct.unpack_from(f"{order}8f", content, 76)[1:]
        start = struct.unpack_from(f"{order}f", content, 108)[0]
        if not 1 <= axes <= 7 or min(sizes[:axes]) < 1 or bits < 1 or bits != NIFTI_BITS.get(kind, bits):
            raise ValueError("its sizes, or bits per value, make no sense")
        values = math.prod(sizes[:axes])
        size = _allowed(values, -(-bits // 8))
        if not NIFTI_DATA <= start <= MOST_BYTES or start != int(start):
            raise ValueError(f"damaged, its data start at {start}")
        file.read(int(start) - NIFTI_DATA)
        _expect(_length(file, size, NIFTI_FLOATS.get(kind) and order + NIFTI_FLOATS[kind]), size)
    return Header(values, spacing)


def _length(file, most: int, floats: str | None) -> int:
    """Bytes that are left in `file`, or more than `most`; no more than a piece of them is held.

    Raises ValueError for numbers of the type `floats` that are none, which SimpleITK reads as 0.
    """
    found = 0
    while found <= most and (piece := file.read(AT_ONCE)):
        found += len(piece)
        if floats and not np.isfinite(np.frombuffer(piece[: len(piece) // 8 * 8], floats)).all():
            raise ValueError("it has values that are no whole numbers from 0 to 255 (NaN or infinite)")
    return found


def _expect(found: int, expected: int) -> None:
    if found < expected:
        raise EOFError(f"truncated, {found} bytes of {expected}")
    if found > expected:
        raise ValueError(f"damaged, more data than the {expected} bytes that its header says")


def _allowed(values: int, each: int) -> int:
    """Bytes of that many values. Raises ValueError if they are too many."""
    if values > MOST_VALUES or values * each > MOST_BYTES:
        raise ValueError(
            f"{values} values of {each} bytes each, more than are read ({MOST_VALUES}, {MOST_BYTES} bytes)"
        )
    return values * each


def _check_mhd(path: Path) -> Header:
    """As `_check_nifti`, for the data file that an MHD header names, or the data that follow it."""
    with open(path, "rb") as file:
        content = file.read(MHD_HEADER_AT_MOST)
    header, begin = _mhd_fields(content)
    name = header.get("ElementDataFile", "")
    if not name:
        raise UserError(f"{path} is no MHD header: it names no ElementDataFile")
    try:
        sizes = [int(n) for n in header["DimSize"].split()]
        kind = MHD_BYTES[header.get("ElementType", "").removeprefix("MET_")]
        values = math.prod(sizes) * int(header.get("ElementNumberOfChannels", 1))
        skipped = int(header.get("HeaderSize", 0))
        spacing = tuple(float(mm) for mm in header.get("ElementSpacing", header.get("ElementSize", "")).split())
    except (KeyError, ValueError):
        raise UserError(f"{path} is no MHD header: its DimSize, ElementType or spacing make no sense") from None
    if min(sizes) < 1 or values < 1 or skipped < -1:
        raise UserError(f"{path} is no MHD header: it has no pixels")
    size = _allowed(values, kind)
    local = name.upper() == "LOCAL"
    data = path if local else _data_file(path, name)
    with open(data, "rb") as file:
        length = os.fstat(file.fileno()).st_size - (begin if local else 0)
        file.seek(begin if local else 0)
        try:
            if header.get("CompressedData", "")[:1].lower() in ("t", "y", "1"):
                if length > MOST_BYTES:
                    raise ValueError(f"of {length} bytes, more than are read ({MOST_BYTES})")
                _expect(inflated_size(iter(lambda: file.read(AT_ONCE), b""), size, str(data)), size)
            elif length < max(skipped, 0) + size:
                raise EOFError(f"truncated, {length} bytes of {max(skipped, 0) + size}")
        except (EOFError, ValueError) as error:
            raise UserError(f"{data} cannot be read: {error}") from None
    return Header(values, spacing)


def _mhd_fields(content: bytes) -> tuple[dict[str, str], int]:
    """The fields of a header, up to and with ElementDataFile, and where it ends."""
    fields, end = {}, 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        key, _, value = line.decode(errors="replace").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    return fields, end


def _data_file(path: Path, name: str) -> Path:
    """Raises UserError for a name that leads elsewhere than beside the header or below, and for what is not there."""
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise UserError(f"{path} names data that do not lie beside it: {name}")
    data = path.parent / name
    if not data.is_file():
        raise UserError(
            f"{data} is missing" + ("" if name != "LIST" and "%" not in name else " (one data file is read)")
        )
    return data

"""Images and label maps of any data set: pictures, NIfTI, MHD and single-frame DICOM, grey or of equal channels.

What is taken and what is refused is docs/on_disk.md. Each kind has its reader, here that of DICOM: SimpleITK's, whose
GDCM refuses what is cut short.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import UserError
from medical_images import (
    MOST_BYTES,
    MOST_VALUES,
    MedicalImage,
    believed_spacing,
    is_medical_image,
    read_frame,
)
from picture_files import decode_image, decode_labels, is_picture, read_bytes

DICOM_SUFFIXES = (".dcm", ".dicom")
PREAMBLE, MAGIC = 128, b"DICM"
FILE_META, TRANSFER_SYNTAX = 0x0002, (0x0002, 0x0010)
LONG_VALUES = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"OF")  # their length takes four bytes more
UID = "1.2.840.10008.1.2"
DEFLATED = f"{UID}.1.99"
EXACT = {UID, *(f"{UID}.{kind}" for kind in ("1", "2", "5", "4.57", "4.70", "4.80", "4.90"))}  # nothing is lost
LOSSY, INTERPRETATION = "0028|2110", "0028|0004"


@dataclass(frozen=True)
class Source:
    """Grey values, uint8 [rows, columns], and (depth, lateral) mm of a pixel, None where the file does not say, or what
    it says cannot be believed; `medical` is the file's own geometry, of those kinds that have one."""

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    medical: MedicalImage | None = None


def is_dicom(path: Path) -> bool:
    """Whether the name ends like that of a DICOM file, in any case of letters."""
    return path.name.lower().endswith(DICOM_SUFFIXES)


def is_source(path: Path) -> bool:
    """Whether the name ends like that of a picture, NIfTI, MHD or DICOM file."""
    return is_picture(path) or is_medical_image(path) or is_dicom(path)


def read_source_image(path: Path) -> Source:
    """Raises UserError for what is damaged, coloured, deeper than 8 bits, or more than one frame."""
    if is_picture(path):
        return Source(decode_image(read_bytes(path), str(path)))
    image = read_dicom(path) if is_dicom(path) else read_frame(path)
    return Source(image.frames[0], image.spacing_mm, image)


def read_source_label(path: Path) -> Source:
    """Values of a label map, uint8 [rows, columns]. Raises UserError, also for what was compressed with loss."""
    if is_picture(path):
        return Source(decode_labels(read_bytes(path), str(path)))
    label = read_dicom(path, exact=True) if is_dicom(path) else read_frame(path)
    return Source(label.frames[0], label.spacing_mm, label)


def read_dicom(path: Path, exact: bool = False) -> MedicalImage:
    """One frame of whole numbers from 0 to 255, grey or of equal channels; with `exact`, compressed without loss.

    Raises UserError for anything else.
    """
    try:
        syntax = _transfer_syntax(path)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO("GDCMImageIO")
        reader.ReadImageInformation()
        size, about = reader.GetSize(), {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
        if len(size) > 3 or (len(size) == 3 and size[2] != 1):
            raise UserError(f"{path} holds {size[-1]} frames; expected is a single one")
        if size[0] * size[1] * reader.GetNumberOfComponents() > MOST_VALUES or syntax == DEFLATED:
            raise UserError(f"{path} is deflated, or of {size[0]} x {size[1]} pixels: not read")
        if about.get(INTERPRETATION) == "MONOCHROME1":
            raise UserError(f"{path} is MONOCHROME1, where 0 is white: save it as MONOCHROME2")
        if exact and (syntax not in EXACT or about.get(LOSSY) == "01"):
            raise UserError(f"{path} is compressed with loss, which is no format for labels: it changes their values")
        image = reader.Execute()
    except (RuntimeError, OSError, struct.error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be read as DICOM: {reason[-1]}") from None
    pixels = sitk.GetArrayViewFromImage(image)
    pixels = pixels.reshape(size[1], size[0], -1)
    if (pixels != pixels[..., :1]).any():
        raise UserError(f"{path} is a picture in colour; expected is a grey one")
    with np.errstate(invalid="ignore"):
        as_bytes = pixels[..., 0].astype(np.uint8)
    if not np.array_equal(as_bytes, pixels[..., 0]):
        raise UserError(f"{path} has values that are no whole numbers from 0 to 255")
    spacing = image.GetSpacing()
    spacing_mm = believed_spacing(spacing[:2], spacing, as_bytes.shape)
    return MedicalImage(path, as_bytes, spacing_mm, spacing, image.GetOrigin(), image.GetDirection())


def _transfer_syntax(path: Path) -> str:
    """How the pixels are coded, by the file's meta information. Raises UserError for what is no DICOM file."""
    if not path.is_file() or os.path.getsize(path) > MOST_BYTES:
        raise UserError(f"{path} is no file, or of more than {MOST_BYTES} bytes")
    with open(path, "rb") as file:
        head = file.read(1 << 14)
    if head[PREAMBLE : PREAMBLE + len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is no DICOM file: the letters DICM are missing")
    at = PREAMBLE + len(MAGIC)
    while at + 8 <= len(head):
        group, element, kind, length = struct.unpack_from("<HH2sH", head, at)
        at += 8
        if kind in LONG_VALUES:
            (length,) = struct.unpack_from("<I", head, at)
            at += 4
        if (group, element) == TRANSFER_SYNTAX:
            return head[at : at + length].rstrip(b"\0 ").decode("ascii", errors="replace")
        if group != FILE_META:
            break
        at += length
    raise UserError(f"{path} is a damaged DICOM file: it does not say how its pixels are coded")

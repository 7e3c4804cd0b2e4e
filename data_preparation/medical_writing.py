"""Writing 2-D medical images (MHD and NIfTI), and seeing that they are whole."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import UserError
from medical_images import read_frame


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
    read_frame(path)  # a full disk goes unnoticed otherwise

"""Label maps written in the geometry of the file that they belong to."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from command import whole_file
from medical_images import MedicalImage, read_medical_image


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

"""Files to predict on, in a geometry of their own, and predict.py in this process."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

import predict
from command import run_command
from settings import PredictSettings

SPACING = (0.8, 0.6)  # mm of SimpleITK: lateral, depth
ORIGIN, DIRECTION = (-12.5, 3.0), (0.0, 1.0, -1.0, 0.0)
SIZES = {"2CH": 90, "4CH": 100}


def write_medical(path: Path, frames: list[np.ndarray], flat: bool = False) -> None:
    """A sequence, or with `flat` one frame of two dimensions."""
    image = sitk.GetImageFromArray(frames[0] if flat else np.stack(frames))
    image.SetSpacing(SPACING if flat else (*SPACING, 0.05))
    image.SetOrigin(ORIGIN if flat else (*ORIGIN, 1.0))
    if flat:
        image.SetDirection(DIRECTION)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), not path.name.endswith(".mhd"))


def run(*flags) -> int:
    return run_command(predict.main, PredictSettings, [str(flag) for flag in flags])

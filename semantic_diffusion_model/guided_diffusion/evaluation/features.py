"""Networks that turn frames into features, from files: our segmentation's encoder, and Inception."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from annotated_types import Interval
from torch import nn

from command import UserError
from guided_diffusion.runs.checkpoints import read_torch
from schema import Record, checked
from state_dicts import checked_weights, load_weights
from unwrapping import unwrapped

Features = Callable[[np.ndarray], np.ndarray]
"""Grey images [B, H, W] uint8 -> features [B, D] float32."""

ENTRY = "echo_segmentation"
ENCODER = "encoder."
INCEPTION_LAYER = "2048"
MOST_PIXELS_AT_ONCE = 1 << 21


class Architecture(Record):
    model_name: Literal["unet", "camus-unet"]
    encoder_name: str = ""
    decoder_channels: tuple[Annotated[int, Interval(ge=1, le=2**13)], ...] = ()


class Description(Record):
    """What a checkpoint of echo_segmentation says of itself, as far as its encoder is concerned."""

    architecture: Architecture
    mean: float
    std: Annotated[float, Interval(gt=0)]
    img_size: Annotated[int, Interval(ge=32, le=2**13)]


def read_encoder(path: str, device: torch.device) -> Features:
    """The encoder of a model.pth of echo_segmentation/runner.py: its deepest feature map, averaged over the image.

    Raises UserError for a file that is none, or whose network has no encoder that can be taken by itself.
    """
    content = unwrapped(read_torch(path))
    metadata = getattr(content, "_metadata", None)
    told = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(told, dict):
        raise UserError(f"segmentation_model {path}: not a model.pth of echo_segmentation/runner.py")
    about = checked(Description, told, f"{path}, what it says of itself")
    if about.architecture.model_name != "unet":
        raise UserError(f"segmentation_model {path} is a camus-unet: features are taken of the model unet alone")
    weights = checked_weights(content, path)
    network = _build_encoder(about.architecture, path)
    own = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    load_weights(network, own, path)
    network = network.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def features(images: np.ndarray) -> np.ndarray:
        size = about.img_size
        grey = torch.from_numpy(np.stack([_resized(image, size) for image in images])).to(device)
        grey = (grey[:, None].float() / 255 - about.mean) / about.std
        at_once = max(1, MOST_PIXELS_AT_ONCE // size**2)
        return torch.cat([network(part)[-1].mean((2, 3)).float().cpu() for part in grey.split(at_once)]).numpy()

    return features


def _build_encoder(architecture: Architecture, path: str) -> nn.Module:
    from segmentation_models_pytorch.encoders import get_encoder  # slow to import

    depth = len(architecture.decoder_channels)
    try:
        return get_encoder(architecture.encoder_name, in_channels=1, depth=depth, weights=None)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"segmentation_model {path}: encoder {architecture.encoder_name}: {reason}") from None


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """To size x size as echo_segmentation does: area means where it shrinks, linear where it grows."""
    if image.shape == (size, size):
        return image
    method = cv2.INTER_AREA if size <= min(image.shape) else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


def read_inception(path: str, device: torch.device) -> Features:
    """torch-fidelity's Inception (the one of the FID paper, TensorFlow's resampling) with the weights in `path`.

    torch-fidelity unpickles whatever a file holds, so what it gets is a copy of the tensors that were checked here.
    Raises UserError for a file that is none.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = checked_weights(unwrapped(read_torch(path)), path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pth"
        torch.save(weights, copy)
        try:
            network = FeatureExtractorInceptionV3(
                "inception", [INCEPTION_LAYER], feature_extractor_weights_path=str(copy)
            )
        except RuntimeError:
            raise UserError(
                f"feature_weights {path}: not the Inception weights that torch-fidelity publishes"
            ) from None
    network = network.to(device)

    @torch.inference_mode()
    def features(images: np.ndarray) -> np.ndarray:
        grey = torch.from_numpy(images).to(device)[:, None].expand(-1, 3, -1, -1)
        return torch.cat([network(part)[0].float().cpu() for part in grey.split(16)]).numpy()

    return features

"""The two segmentation networks, and what sizes they take."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from command import UserError
from convolution import with_fast_gradients

CAMUS_CHANNELS = (2, 4, 8, 16, 32, 64, 128, 256)
CAMUS_MULTIPLE, CAMUS_LEAST = 128, 256


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build a network whose weights come from a checkpoint."""

    model_name: str
    num_classes: int
    encoder_name: str = ""
    decoder_channels: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self) | {"decoder_channels": list(self.decoder_channels)}


def build_network(architecture: Architecture, encoder_weights: str = "none") -> nn.Module:
    """(batch, 1, height, width) float32 -> logits (batch, num_classes, height, width). camus-unet has no encoder.

    Raises UserError for an encoder that does not exist, or weights that cannot be had.
    """
    if architecture.model_name == "camus-unet":
        return with_fast_gradients(build_camus_unet(architecture.num_classes))
    return with_fast_gradients(build_unet(architecture, encoder_weights))


def build_camus_unet(num_classes: int) -> nn.Module:
    """The published U-Net (Echo from Noise, section 2.3): MONAI's, 2 to 256 channels, no residual units."""
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=num_classes,
        channels=CAMUS_CHANNELS,
        strides=(2,) * (len(CAMUS_CHANNELS) - 1),
        num_res_units=0,
        act=("LeakyReLU", {"negative_slope": 0.1}),
        norm="INSTANCE",
    )


def build_unet(architecture: Architecture, encoder_weights: str) -> nn.Module:
    """A U-Net (Ronneberger et al. 2015) with an encoder of segmentation-models-pytorch or timm."""
    import segmentation_models_pytorch as smp

    name = architecture.encoder_name
    try:
        return smp.Unet(
            name,
            encoder_weights=None if encoder_weights == "none" else encoder_weights,
            encoder_depth=len(architecture.decoder_channels),
            decoder_channels=architecture.decoder_channels,
            in_channels=1,
            classes=architecture.num_classes,
        )
    except (KeyError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"--encoder-name {name} --encoder-weights {encoder_weights}: {reason}") from error


def check_size(network: nn.Module, architecture: Architecture, size: int) -> None:
    """Raises UserError if the network cannot take images of size x size."""
    if architecture.model_name == "camus-unet":
        multiple, least = CAMUS_MULTIPLE, CAMUS_LEAST
    else:
        multiple = network.encoder.output_stride
        least = 2 * multiple  # batch normalisation needs more than one value per channel, in a batch of one too
    if size % multiple or size < least:
        raise UserError(f"--img-size {size}: {architecture.model_name} takes multiples of {multiple} from {least} up")
    if architecture.encoder_name.startswith("tu-"):  # of timm, some of which take images of one size alone
        _try_size(network, architecture, size)


def _try_size(network: nn.Module, architecture: Architecture, size: int) -> None:
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 1, size, size))
    except Exception as error:  # in whatever way an encoder says it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--img-size {size}: --encoder-name {architecture.encoder_name}: {reason}") from error
    finally:
        network.train(was_training)

"""What the benchmarks of the diffusion model share: networks and label maps."""

import sys

import numpy as np
import torch
from timing import ROOT

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from guided_diffusion.network.condition import Condition  # noqa: E402
from guided_diffusion.network.unet import UNetModel  # noqa: E402

MULTIPLIERS = {16: (1, 2), 32: (1, 2, 3), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}


def echo_label_maps(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Label maps [count, size, size] like those of echocardiography: a sector of tissue, ellipses of a heart in it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    maps = np.zeros((count, size, size), np.int64)
    for labels in maps:
        left, down, tilt = rng.normal(0, 0.03, 3)

        def ellipse(centre_y, radius_x, radius_y, left=left, down=down, tilt=tilt):
            across, along = x - 0.5 - left, y - centre_y - down
            u, v = across * np.cos(tilt) + along * np.sin(tilt), along * np.cos(tilt) - across * np.sin(tilt)
            return (u / radius_x) ** 2 + (v / radius_y) ** 2 < 1

        sector = (abs(x - 0.5) < 0.8 * (y - 0.03)) & ((x - 0.5) ** 2 + (y - 0.03) ** 2 < 0.9**2)
        labels[sector] = 4
        labels[sector & ellipse(0.40, 0.20, 0.30)] = 2
        labels[sector & ellipse(0.42, 0.14, 0.24)] = 1
        labels[sector & ellipse(0.78, 0.14, 0.10)] = 3
    return maps


def make_network(channels: int, size: int, checkpointing: bool = False, head: int = 64) -> UNetModel:
    """The published architecture at another width or size; no layer is left at its start of zeros."""
    torch.manual_seed(0)
    multipliers = MULTIPLIERS.get(size) or MULTIPLIERS[256]
    network = UNetModel(
        image_size=size,
        in_channels=3,
        model_channels=channels,
        out_channels=6,
        num_res_blocks=2,
        attention_resolutions=tuple(size // pixels for pixels in (32, 16, 8) if pixels <= size),
        channel_mult=multipliers,
        num_classes=5,
        use_checkpoint=checkpointing,
        num_head_channels=head,
        use_scale_shift_norm=True,
        resblock_updown=True,
        use_new_attention_order=True,
    )
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def make_condition(network: UNetModel, labels: np.ndarray, mode: str, training: bool) -> Condition:
    return Condition.from_labels(labels, 5, factors=network.factors, mode=mode, training=training)

"""What the shapes of a checkpoint's tensors tell about its network.

The names are those of the published U-Net: blocks `input_blocks.i`, `middle_block`, `output_blocks.i`, each a sequence
of modules: a residual block, attention where the level has it, an up-sampling at the end of a level of the decoder.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from command import UserError


def settings_from_shapes(
    state_dict: Mapping[str, torch.Tensor], img_size: int, no_instance: bool = True
) -> dict[str, Any]:
    """The settings of the network that `state_dict` belongs to, as far as shapes show them.

    `img_size` (pixels) turns levels with attention into attention_resolutions. `no_instance` False means that one
    channel of the condition is not a class. Heads, the order of attention and the diffusion process leave no trace.
    Raises UserError if the tensors are not those of such a network.
    """
    try:
        return _read(state_dict, img_size, no_instance)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        raise UserError("the checkpoint's tensors do not form a semantic diffusion model") from None


def _read(state_dict: Mapping[str, torch.Tensor], img_size: int, no_instance: bool) -> dict[str, Any]:
    num_channels = state_dict["time_embed.0.weight"].shape[1]
    upsamplings = dict(found for key in state_dict if (found := _upsampling(key)))
    levels = 1 + len(upsamplings)
    blocks = 1 + max(int(key.split(".")[1]) for key in state_dict if key.startswith("output_blocks."))
    per_level = blocks // levels  # residual blocks, and one that changes the resolution (the first convolution counts)
    firsts = [1 + level * per_level for level in range(levels)]
    channels = [state_dict[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
    attended = [level for level, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in state_dict]
    conditions = [value.shape[1] for key, value in state_dict.items() if key.endswith("mlp_shared.0.weight")]
    inputs = state_dict["input_blocks.0.0.weight"].shape[1]  # channels times the pixels of a patch, which are a square
    image_channels = 1 if math.isqrt(inputs) ** 2 == inputs else 3
    per_patch = inputs // image_channels
    patch_size = math.isqrt(per_patch)
    known = {
        "img_size": img_size,
        "image_channels": image_channels,
        "patch_size": patch_size,
        "num_channels": num_channels,
        "channel_mult": ",".join(f"{count / num_channels:g}" for count in channels),
        "num_res_blocks": per_level - 1,
        "attention_resolutions": ",".join(str(img_size // patch_size // 2**level) for level in attended) or "none",
        "learn_sigma": state_dict["out.2.weight"].shape[0] == 2 * inputs,
        "use_scale_shift_norm": state_dict["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * channels[0],
        "class_cond": bool(conditions),
    }
    if upsamplings:
        known["resblock_updown"] = "in_layers" in upsamplings.values()
    if conditions:
        known["num_classes"] = conditions[0] // per_patch - (not no_instance)
    return known


def _upsampling(key: str) -> tuple[str, str] | None:
    """If `key` belongs to an up-sampling: its block, and "in_layers" (a residual block) or "conv"; else None."""
    match = re.fullmatch(r"output_blocks\.(\d+)\.[1-9]\.(in_layers|conv)\b.*\.weight", key)
    return (match[1], match[2]) if match else None

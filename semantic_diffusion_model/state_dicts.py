"""Tensors of a file that anybody may have written: whole, real and finite, and those of the network at hand.

This small file stands, the same, in semantic_diffusion_model and echo_segmentation.
"""

import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import nn

from command import UserError


def refuse_flipped_bits(file: BinaryIO, path: str) -> None:
    """Raise UserError if a part of the file that torch.save wrote differs from its checksum, which torch.load ignores.

    Older files, which are no zip archives, have none.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged: the checksum of {damaged} does not fit")
    file.seek(0)


def checked_weights(content: Any, path: str) -> dict[str, torch.Tensor]:
    """The state dict `content` of the file `path`, floats in float32. Raises UserError unless all are finite."""
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no weights")
    for name, value in content.items():
        if not isinstance(name, str) or not is_dense(value):
            raise UserError(f"{path} holds no weights: {str(name)[:60]} is no plain tensor of real numbers")
    bad = [name for name, value in content.items() if not bool(value.isfinite().all())]
    if bad:
        raise UserError(
            f"{path}: {len(bad)} of its {len(content)} tensors hold infinite or undefined (NaN) values ({bad[0]}): it "
            "cannot be used"
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in content.items()}


def is_dense(value: Any) -> bool:
    """Whether `value` is a tensor that takes no more memory than its file has bytes."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def load_weights(network: nn.Module, state_dict: Mapping[str, torch.Tensor], path: str) -> None:
    """Give `network` the weights that were read from `path`. Raises UserError unless all names and shapes agree."""
    misfits = find_misfits(network, state_dict)
    if misfits:
        more = f" and {len(misfits) - 2} more" if len(misfits) > 2 else ""
        raise UserError(
            f"{path} does not fit the network: {len(misfits)} tensors differ, {', '.join(misfits[:2])}{more}"
        )
    network.load_state_dict(state_dict)


def find_misfits(network: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """What differs between the names and shapes of `state_dict` and those of `network`: a few words for each tensor."""
    own = network.state_dict()
    misfits = [f"{name} (not in the file)" for name in own if name not in state_dict]
    misfits += [f"{name} (not in the network)" for name in state_dict if name not in own]
    for name in own.keys() & state_dict.keys():
        wanted, there = tuple(own[name].shape), tuple(state_dict[name].shape)
        if wanted != there:
            misfits.append(f"{name} ({_size(there)}, the network's is {_size(wanted)})")
    return sorted(misfits)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"

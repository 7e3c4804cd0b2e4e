"""State dicts as trainers save them: wrapped in dictionaries, their names with prefixes.

This small file stands in semantic_diffusion_model and in echo_segmentation, which do not import one another.
"""

import re
from collections import OrderedDict
from typing import Any

import torch

# What a state dict may lie in, averaged weights first.
WRAPPERS = ("ema", "ema_state_dict", "state_dict", "model", "model_state_dict", "module")
MOST_WRAPPERS = 8
PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DistributedDataParallel and of compiled modules


def unwrapped(content: Any) -> Any:
    """The state dict in `content`, without wrappers and prefixes, with its metadata.

    What holds no dictionary of tensors comes back as it is.
    """
    inner = content
    for _ in range(MOST_WRAPPERS):  # a dictionary may contain itself
        if isinstance(inner, dict) and (found := [inner[k] for k in WRAPPERS if isinstance(inner.get(k), dict)]):
            inner = found[0]
    if not isinstance(inner, dict) or not inner:
        return content
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in inner.items()):
        return content
    plain = OrderedDict((PREFIXES.sub("", name), value) for name, value in inner.items())
    if len(plain) < len(inner):
        return content  # two tensors of one name: these are no prefixes
    plain._metadata = getattr(inner, "_metadata", {})
    return plain

"""A new run that starts from the weights of another: it trains what its own settings say, and takes what fits.

So a network moves to another size, class count or prediction type, or from an unconditional to a conditional one.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from command import UserError
from config import Settings, attention_sizes, settle_prediction, with_prediction_type
from guided_diffusion.data.datasets import natural_key
from guided_diffusion.runs.checkpoints import Checkpoint
from guided_diffusion.runs.network_settings import settings_known_of

PREDICTION = {"predict_xstart", "prediction_type"}
PART = re.compile(r"(?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+|\w+")


def take_settings(settings: Settings, given: set[str], checkpoint: Checkpoint) -> Settings:
    """`settings` of a new run, with the network of `checkpoint` where no `given` flag says otherwise.

    Whether there is a condition is never taken from it: labels that were asked for would be left out without a word.
    Attention keeps its levels, whatever the size of the images. Raises UserError for what no network can have.
    """
    known = with_prediction_type(settings_known_of(settings, given, checkpoint))
    if known.get("img_size") and "attention_resolutions" in known:
        known["attention_resolutions"] = _at_grid(known, settings, given, checkpoint.path)
    left_out = (
        given
        | {"class_cond", "class_names"}
        | (PREDICTION if _says_what_is_predicted(settings, given, known) else set())
    )
    if tuple(known.get("class_names", ())) != settings.class_names:
        left_out |= {"num_classes"}  # the checkpoint's are of other data
    taken = {name: value for name, value in known.items() if name not in left_out}
    merged = settle_prediction(dataclasses.replace(settings, **taken), given)
    merged.check_network()
    return merged


def _says_what_is_predicted(settings: Settings, given: set[str], known: Mapping[str, Any]) -> bool:
    """Whether the flags ask for it. --predict_xstart False only rules x_0 out."""
    if "predict_xstart" in given:
        return settings.predict_xstart or known.get("prediction_type") == "sample" or "prediction_type" in given
    return "prediction_type" in given


def _at_grid(known: Mapping[str, Any], settings: Settings, given: set[str], where: str) -> str:
    """attention_resolutions of the same levels at the size of images and patches asked for. Raises UserError."""
    img_size = settings.img_size if "img_size" in given else known["img_size"]
    patch_size = settings.patch_size if "patch_size" in given else known.get("patch_size", 1)
    before = known["img_size"] // known.get("patch_size", 1)
    if not before:
        raise UserError(f"{where} has images of {known['img_size']} pixels in patches of {known['patch_size']}")
    sizes = (size * (img_size // patch_size) // before for size in attention_sizes(known["attention_resolutions"]))
    return ",".join(map(str, sizes)) or "none"


def take_weights(network: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Load the tensors of `checkpoint` that have the name and shape of one of the network's; tell what was not.

    Raises UserError if there are none.
    """
    own = network.state_dict()
    fitting = {
        name: value for name, value in checkpoint.state_dict.items() if name in own and own[name].shape == value.shape
    }
    if not fitting:
        raise UserError(f"{checkpoint.path}: none of its {len(checkpoint.state_dict)} tensors fits the network")
    network.load_state_dict(fitting, strict=False)
    lines = [f"starting at step 0 from the weights in {checkpoint.path}", *filter(None, [checkpoint.note])]
    fresh, unused = own.keys() - fitting.keys(), checkpoint.state_dict.keys() - fitting.keys()
    if fresh or unused:
        lines += [
            f"  taken: {len(fitting)} of the {len(own)} tensors, those of the same name and shape: {parts(fitting)}",
            f"  initialised: {len(fresh)}{': ' if fresh else ''}{parts(fresh)}",
            f"  in the file, but not in the network: {len(unused)}{': ' if unused else ''}{parts(unused)}",
        ]
    return lines


def taken_settings(settings: Settings, asked: Settings) -> str | None:
    """A line on the settings that are the checkpoint's instead of those `asked` for by flags or defaults."""
    pairs = ((name, getattr(asked, name), value) for name, value in settings.as_dict().items())
    changed = [f"{name} {value}" for name, before, value in pairs if before != value]
    return f"settings of the network from the checkpoint: {', '.join(changed)}" if changed else None


def other_target(settings: Settings, checkpoint: Checkpoint) -> str | None:
    """A line on weights that were trained to predict something else, where the checkpoint says so."""
    before = with_prediction_type(checkpoint.settings).get("prediction_type", settings.prediction_type)
    if before == settings.prediction_type:
        return None
    return f"the weights were trained to predict {before}: they learn {settings.prediction_type} from here on"


def parts(names: Iterable[str]) -> str:
    """The layers that tensors of these names belong to, and how many of each: in the order of the names."""
    counts = Counter(match[0] for name in sorted(names, key=natural_key) if (match := PART.match(name)))
    return ", ".join(f"{part} ({count})" for part, count in counts.items())

"""The settings of a network: those of the command line, held against what a checkpoint carries or its tensors show."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from command import UserError
from config import Settings, attention_sizes, parse_numbers, settle_prediction, with_prediction_type
from guided_diffusion.runs.checkpoint_shapes import settings_from_shapes
from guided_diffusion.runs.checkpoints import Checkpoint


def merge_settings(settings: Settings, given: set[str], checkpoint: Checkpoint) -> Settings:
    """`settings` with those of the network taken from the checkpoint.

    The settings that `given` names stood on the command line: where they disagree with the checkpoint, UserError names
    the flag and both values. What neither the file nor a JSON beside it says comes from the shapes of the tensors, and
    those are right where a JSON says otherwise.
    """
    return adopt_settings(settings, given, settings_known_of(settings, given, checkpoint), checkpoint.path)


def settings_known_of(settings: Settings, given: set[str], checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of the checkpoint's network. Raises UserError if its shapes can be read in two ways."""
    known = dict(checkpoint.settings)
    if checkpoint.source == "file":
        return known
    img_size = settings.img_size if "img_size" in given else known.get("img_size", settings.img_size)
    told = "no_instance" in given or "no_instance" in known
    no_instance = settings.no_instance if "no_instance" in given else known.get("no_instance", True)
    shown = settings_from_shapes(checkpoint.state_dict, img_size, no_instance)
    if not told and shown.get("num_classes") == settings.num_classes + 1:
        channels = shown["num_classes"]
        raise UserError(
            f"{checkpoint.path}: its condition has {channels} channels: either {channels} classes (--num_classes "
            f"{channels}), or {channels - 1} and the edges between instances (--no_instance False); say which"
        )
    return known | shown


def adopt_settings(settings: Settings, given: set[str], known: Mapping[str, Any], where: str) -> Settings:
    """`settings` with those that are `known` of the checkpoint at `where`. Raises UserError as `merge_settings`."""
    known = {"class_names": ()} | with_prediction_type(known)
    for name in disagreeing(settings, given, known):
        if name == "class_names":
            theirs, ours = (", ".join(names) or "those of CAMUS" for names in (known[name], settings.class_names))
            raise UserError(f"{where} was trained for other classes than {settings.datadir} has: {theirs}, not {ours}")
        raise UserError(
            f"--{name} {getattr(settings, name)}: the checkpoint {where} has {known[name]}; leave the flag out, or "
            "choose another checkpoint"
        )
    merged = settle_prediction(dataclasses.replace(settings, **known), given)
    merged.check_network()
    return merged


def disagreeing(settings: Settings, given: set[str], known: Mapping[str, Any]) -> list[str]:
    """The `given` settings that mean something else than what is `known` of a network."""
    return [
        name
        for name in sorted(given & known.keys())
        if comparable(name, getattr(settings, name), settings) != comparable(name, known[name], settings)
    ]


def comparable(name: str, value: Any, settings: Settings) -> Any:
    """`value` of the setting `name` in a form in which equal meanings are equal: comma lists as numbers."""
    if name == "channel_mult":
        return parse_numbers(name, value) if value else settings.multipliers()
    if name == "attention_resolutions":
        return set(attention_sizes(value))
    if name == "class_names":
        return tuple(value)
    return value

"""The settings of a run as JSON, in the form of the published `train_test_config.json`: nested, upper-case keys."""

import dataclasses
from typing import Any

from config import Settings, names
from setting_groups import (
    DataSettings,
    DiffusionSettings,
    LossSettings,
    NetworkSettings,
    RunSettings,
    SamplingSettings,
    TrainingDataSettings,
    TrainingSettings,
)

_SECTIONS = {
    "DATASETS": (DataSettings, TrainingDataSettings),
    "TRAIN": (NetworkSettings, TrainingSettings, RunSettings),
    "TEST": (SamplingSettings,),
}


def to_published_json(settings: Settings) -> dict[str, Any]:
    """The settings in the nested, upper-case form of the published `train_test_config.json`."""

    def section(*groups: type) -> dict[str, Any]:
        found = {name: getattr(settings, name) for name in names(*groups)}
        return {name.upper(): value for name, value in found.items() if name != "class_names" or value}

    sections = {title: section(*groups) for title, groups in _SECTIONS.items()}
    sections["TRAIN"]["DIFFUSION"] = section(DiffusionSettings, LossSettings)
    return sections


def from_published_json(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings found anywhere in a nested dictionary with upper- or lower-case keys; unknown keys are left out.

    Comma lists may be written as JSON lists or strings. Values are not checked beyond their kind.
    """
    known = {field.name: field for field in dataclasses.fields(Settings)}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = key.lower()
        if isinstance(value, dict):
            found.update(from_published_json(value))
        elif name in known:
            if isinstance(value, list | tuple) and name != "class_names":
                value = ",".join(str(part) for part in value)
            if name in ("ema_rate", "attention_resolutions", "timestep_respacing") and value is not None:
                value = str(value)
            if name == "channel_mult":
                value = str(value) if value else None
            found[name] = value
    return found

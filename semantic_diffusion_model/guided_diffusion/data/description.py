"""What the data set in datadir is, by the dataset.json that travels with it: its classes, their names and colours."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from command import UserError
from config import Settings
from dataset_description import DESCRIPTION, Description, camus, parse_description
from guided_diffusion.data.datasets import Pair
from guided_diffusion.data.pictures import PALETTE, Palette
from guided_diffusion.runs import storage

DEFORMED = re.compile(r"patient\d+_.+_(?:training|validation)_\d+")  # as augment_camus_labels.py names its copies


def read_description(settings: Settings) -> Description | None:
    """Of datadir: its dataset.json, CAMUS' where it has none; None for layouts that are not those of the data
    preparation. Raises UserError."""
    if settings.dataset_mode != "camus":
        return None
    path = storage.join(settings.datadir, DESCRIPTION)
    data = storage.read_if_there(path) if settings.datadir else None
    return camus() if data is None else parse_description(data, path)


def with_description(settings: Settings, given: set[str]) -> tuple[Settings, set[str]]:
    """`settings` with number and names of the classes of datadir, and `given` with what is thereby settled.

    Raises UserError where a given --num_classes disagrees. Of CAMUS, num_classes stays as it is.
    """
    description = read_description(settings)
    if description is None:
        return settings, given
    if description == camus():
        return settings, given | {"class_names"}
    count = description.num_conditions
    if "num_classes" in given and settings.num_classes != count:
        names = ", ".join(description.condition_names)
        raise UserError(
            f"--num_classes {settings.num_classes}: {storage.join(settings.datadir, DESCRIPTION)} describes {count} "
            f"({names}); leave the flag out"
        )
    described = dataclasses.replace(settings, num_classes=count, class_names=description.condition_names)
    return described, given | {"num_classes", "class_names"}


def mark_of(settings: Settings) -> str:
    """What stands before the numbers that are appended to names in datadir."""
    description = read_description(settings)
    return "_" if description is None else description.names.mark


def refuse_deformed_labels(pairs: Sequence[Pair], settings: Settings, instead: str) -> None:
    """Raise UserError for label maps made to sample from: they lie beside images that they do not belong to. `instead`:
    what to do with <view>_sector."""
    described = read_description(settings) not in (None, camus())
    names = re.compile(rf".+{re.escape(mark_of(settings))}\d+", re.DOTALL) if described else DEFORMED
    if deformed := [pair.stem for pair in pairs if names.fullmatch(pair.stem)]:
        raise UserError(
            f"{settings.datadir}: {len(deformed)} label maps are deformed (as {deformed[0]}), their images are not: "
            f"that is to sample from; {instead} <view>_sector, made by augment_camus_labels.py --add_augmentation False"
        )


def outside_of(settings: Settings) -> int:
    """The class that lies outside the sector. Raises UserError if datadir has no sector, or no label is looked at."""
    description = read_description(settings)
    if description is None or description.sector is None or not settings.class_cond:
        raise UserError(f"blank_outside: datadir {settings.datadir} describes no sector, or labels are not looked at")
    return description.sector.outside


def palette_of(settings: Settings) -> Palette:
    """The colours in which the classes of datadir are shown."""
    description = read_description(settings)
    if description is None:
        return Palette(quiet=(0,))
    own = description.condition_colours
    return Palette(np.concatenate([own, PALETTE[len(own) :]]), description.quiet_conditions)

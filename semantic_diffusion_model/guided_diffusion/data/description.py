"""What the data set in datadir is, by the dataset.json that travels with it: its classes, their names and colours."""

import dataclasses

import numpy as np

from command import UserError
from config import Settings
from dataset_description import DESCRIPTION, Description, camus, parse_description
from guided_diffusion.data.pictures import PALETTE, Palette
from guided_diffusion.runs import storage


def read_description(settings: Settings) -> Description | None:
    """Of datadir: its dataset.json, CAMUS' where it has none; None for layouts that are not those of the data
    preparation. Raises UserError."""
    if settings.dataset_mode != "camus":
        return None
    path = storage.join(settings.datadir, DESCRIPTION)
    if not settings.datadir or not storage.exists(path):
        return camus()
    with storage.open_for_reading(path) as file:
        return parse_description(file.read(), path)


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

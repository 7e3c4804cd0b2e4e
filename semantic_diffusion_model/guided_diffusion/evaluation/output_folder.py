"""output_dir: who may write there, what is written, and how a former evaluation makes room for this one.

evaluation.json is what tells that an evaluation is there. So the former ones go before the first file of this one is
written, and what else was left of them when the last one is: a folder never passes for an evaluation that it is not.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping

from command import UserError
from evaluation_settings import SETS, EvaluationSettings
from guided_diffusion.runs import storage

FIGURES = "figures"
ENTRY, PAGE = "evaluation.json", "evaluation.md"
DRAWN = (
    *("grey_levels", "distributions", "power_spectrum", "differences", "nearest", "closest_pairs"),
    "comparison",
)
"""All figures that there may be, by name."""


def subfolders(sets: Iterable[str]) -> tuple[str, ...]:
    """The folders in output_dir that are written to, of the `sets` by name ("" has none of its own)."""
    return FIGURES, *(folder for name in sets if name for folder in (name, f"{name}/{FIGURES}"))


def refuse_used(settings: EvaluationSettings) -> None:
    """Raise UserError if output_dir holds anything, unless it may be replaced."""
    names = storage.list_names(settings.output_dir)
    if names and not settings.overwrite:
        raise UserError(
            f"output_dir {settings.output_dir} is not empty ({names[0]}): choose another, or add --overwrite True"
        )
    in_sets = [storage.list_names(path) for path in _sets_in(settings.output_dir, names)]
    # A comparison that was killed has left these alone, or one of them empty.
    if names and not any(not found or {ENTRY, PAGE, FIGURES} & set(found) for found in (names, *in_sets)):
        raise UserError(f"output_dir {settings.output_dir} holds no evaluation ({names[0]}): nothing is replaced there")


def _sets_in(folder: str, names: Iterable[str]) -> list[str]:
    return [path for name in names if name in SETS and storage.is_folder(path := storage.join(folder, name))]


def former_files(folder: str) -> list[str]:
    """Paths of what former evaluations have left in `folder`: the files of known names, their evaluation.json first.

    A and B are looked into where nothing else lies in them: else they are somebody's, by chance of these names.
    """
    places = [folder]
    for path in _sets_in(folder, storage.list_names(folder)):
        if set(storage.list_names(path)) <= {ENTRY, PAGE, FIGURES}:
            places.append(path)
    names = [ENTRY, PAGE, *(storage.join(FIGURES, f"{name}.png") for name in DRAWN)]
    paths = [storage.join(place, name) for name in names for place in places]
    return [path for path in paths if storage.exists(path)]


def make_room(folder: str) -> list[str]:
    """Delete each evaluation.json of a former evaluation; return the paths of its other files."""
    former = former_files(folder)
    for path in former:
        if os.path.basename(path) == ENTRY:
            storage.remove(path)
    return [path for path in former if os.path.basename(path) != ENTRY]


def sweep(folder: str, former: Iterable[str], written: Iterable[str]) -> None:
    """Delete the `former` files that were not `written` anew, and the folders in `folder` that are empty then."""
    for path in set(former) - set(written):
        storage.remove(path)
    for name in (FIGURES, *(storage.join(one, FIGURES) for one in SETS), *SETS):
        with contextlib.suppress(OSError):  # not empty, or never there; object storage has no empty folders
            os.rmdir(storage.join(folder, name))


def write_report(folder: str, page: str, entry: str) -> list[str]:
    """Write evaluation.json (`entry`) and evaluation.md; their paths."""
    storage.make_folder(folder)
    return [
        _write(storage.join(folder, name), lambda path, text=text: path.write_text(text, encoding="utf-8"))
        for name, text in ((ENTRY, entry), (PAGE, page))
    ]


def write_figures(folder: str, drawn: Mapping[str, Callable]) -> list[str]:
    """Write figures/<name>.png of each; their paths."""
    storage.make_folder(storage.join(folder, FIGURES))
    return [_write(storage.join(folder, FIGURES, f"{name}.png"), save) for name, save in drawn.items()]


def _write(path: str, save: Callable) -> str:
    storage.write_whole(path, save)
    return path

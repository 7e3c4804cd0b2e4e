"""What travels with the images from datadir, for later commands: dataset.json, and metadata.csv, a row per frame."""

import csv
import io
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from command import UserError
from dataset_description import DESCRIPTION, METADATA
from guided_diffusion.runs import storage
from schema import parse_csv


def carry_along(datadir: str, results_dir: str, label_maps: Iterable[str], described: bool) -> None:
    """Bring metadata.csv of datadir into results_dir and, if it is `described`, its dataset.json, where they are.

    Rows that stand there already for others of the `label_maps` (paths) that images are made for, stay.
    """
    if (ours := storage.read_if_there(storage.join(datadir, METADATA))) is not None:
        target = storage.join(results_dir, METADATA)
        _write(target, _joined(ours, storage.read_if_there(target), {PurePosixPath(path).stem for path in label_maps}))
    if described:
        target = storage.join(results_dir, DESCRIPTION)
        if (ours := storage.read_if_there(storage.join(datadir, DESCRIPTION))) is not None:
            _write(target, ours)
        else:
            storage.remove(target)  # of results that were replaced


def _joined(ours: bytes, former: bytes | None, used: Collection[str]) -> bytes:
    """The table `ours`, with those rows of the `former` one that are `used`, and whose stems it does not have."""
    try:
        tables = [parse_csv(data, METADATA, columns=("stem",)) for data in (ours, former or b"")]
    except UserError:  # one of them is not ours to read: as it is, or replaced
        return ours
    stems = {row["stem"] for row in tables[0]}
    kept = [row for row in tables[1] if row["stem"] in used and row["stem"] not in stems]
    if not kept:
        return ours
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for rows in tables for row in rows[:1] for name in row)
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *tables[0]])
    return text.getvalue().encode()


def _write(path: str, data: bytes) -> None:
    storage.write_whole(path, partial(Path.write_bytes, data=data))

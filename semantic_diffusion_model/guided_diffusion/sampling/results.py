"""The folder of a sampling job: pictures that are there whole or not at all, and a manifest of what is there.

An image counts as made when its row is in the manifest, and a row is written after its files. Each rank writes rows to
a part of its own; parts are merged when the job ends, and when it starts again after a crash. Until it ends there is
a part, if an empty one: the folder is unfinished.
"""

import csv
import os
import re
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Interval
from pydantic import StringConstraints

from command import UserError
from dataset_description import DESCRIPTION, METADATA
from guided_diffusion.runs import storage
from output_files import telling
from schema import Record, checked, parse_csv

FOLDERS = ("images", "labels", "labels_visible", "samples", "combined")
WITHOUT_LABELS = ("samples",)  # an unconditional network has seen no label, nor the frame that it belongs to
MANIFEST = "manifest.csv"
PREVIEW = "preview.png"
LONGEST_NAME = 250  # in bytes; with a suffix, what file systems take
PART = re.compile(r"manifest\.part(\d+)\.csv")
FIRST_PART = "manifest.part0.csv"


@dataclass(frozen=True)
class Row:
    """One synthetic image and all that decides its pixels."""

    stem: str
    label_map: str
    label_sha256: str
    index: int
    round: int
    seed: int
    sampler: str
    steps: int
    spacing: str
    spacing_ends: str
    eta: float
    guidance_scale: float
    clip_denoised: bool
    blank_outside: bool
    img_size: int
    precision: str
    device: str
    checkpoint: str
    checkpoint_sha256: str
    network: str


class ManifestRow(Record):
    """What is relied on in a row of a manifest; the rest is compared as text."""

    stem: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME)]
    index: Annotated[int, Interval(ge=0, lt=2**63)]


COLUMNS = tuple(field.name for field in fields(Row))
# What may differ between runs into one folder: where files lie, and the place of an image in a longer or shorter job.
FREE = ("label_map", "index", "checkpoint")
FORMER = {"blank_outside": "False", "spacing_ends": ""}  # of manifests from before there were these columns


class Results:
    """`folder`, with one part of the manifest for this rank, and the `kinds` of pictures that are written there."""

    def __init__(self, folder: str, rank: int, kinds: Sequence[str] = FOLDERS):
        self.folder = folder
        self.kinds = kinds
        self.part = storage.join(folder, f"manifest.part{rank}.csv")
        self._written: list[Row] = []
        self._adding = threading.Lock()

    def create_folders(self) -> None:
        with telling(self.folder):
            for name in self.kinds:
                storage.make_folder(storage.join(self.folder, name))

    def path(self, kind: str, stem: str) -> str:
        return storage.join(self.folder, kind, f"{stem}.png")

    def write_png(self, kind: str, stem: str, picture: np.ndarray) -> None:
        """Write `picture` ([H, W] grey or [H, W, 3] RGB, uint8)."""
        self.write_picture(f"{kind}/{stem}.png", picture)

    def write_picture(self, name: str, picture: np.ndarray) -> None:
        pixels = picture if picture.ndim == 2 else picture[..., ::-1]
        data = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
        self._write(name, data)

    def add(self, rows: Sequence[Row]) -> None:
        """Enter images whose files are written; threads may call it at once."""
        with self._adding:
            self._written += rows
            if storage.is_remote(self.part):  # object storage cannot append
                self._write(os.path.basename(self.part), _to_csv(self._written))
                return
            with telling(self.part), open(self.part, "ab") as file:
                file.write(_to_csv(rows, header=file.tell() == 0))

    def made(self) -> dict[str, dict[str, str]]:
        """Rows by stem, from the manifest and all parts; a row cut short by a crash is left out."""
        rows: dict[str, dict[str, str]] = {}
        for name in self.manifests():
            path = storage.join(self.folder, name)
            for row in _read_csv(path):
                _refuse_no_name(row["stem"], path)
                rows[row["stem"]] = row
        return rows

    def count_parts(self) -> int:
        """Images entered by all ranks since the parts were last merged; cheap enough to ask every second."""
        total = 0
        for name in self.manifests():
            if PART.fullmatch(name):
                with storage.open_for_reading(storage.join(self.folder, name)) as file:
                    total += max(0, file.read().count(b"\n") - 1)
        return total

    def is_unfinished(self) -> bool:
        """Whether a job works here, or was killed: then there is a part."""
        return any(map(PART.fullmatch, self.manifests()))

    def mark_unfinished(self) -> None:
        if not self.is_unfinished():
            self._write(FIRST_PART, _to_csv([]))

    def merge(self, rows: Iterable[dict[str, str]], finished: bool = True) -> None:
        """Make `rows` the manifest, and drop the parts; but for an empty one, of a job that is not `finished`."""
        ordered = sorted(rows, key=lambda row: int(row["index"]))
        self._write(MANIFEST, _to_csv(ordered))
        if not finished:
            self._write(FIRST_PART, _to_csv([]))
        for name in self.manifests():
            if PART.fullmatch(name) and (finished or name != FIRST_PART):
                storage.remove(storage.join(self.folder, name))

    def with_files(self, real: Collection[str] = ()) -> set[str]:
        """The stems whose pictures are all there; of those in `real` the real image, too. Each folder is listed once,
        as object storage wants it."""
        names = {}
        for kind in self.kinds:
            folder = storage.join(self.folder, kind)
            listed = storage.list_names(folder) if storage.is_folder(folder) else []
            names[kind] = {name.removesuffix(".png") for name in listed}
        images = names.pop("images", None)
        whole = set.intersection(*names.values())
        return whole if images is None else whole - (set(real) - images)

    def remove(self, stems: Iterable[str]) -> None:
        for stem in stems:
            for kind in FOLDERS:
                storage.remove(self.path(kind, stem))

    def _write(self, name: str, data: bytes) -> None:
        storage.write_whole(storage.join(self.folder, name), lambda temporary: temporary.write_bytes(data))

    def manifests(self) -> list[str]:
        """Names of the manifest and its parts, in the order in which they were written."""
        if not storage.is_folder(self.folder):
            return []
        names = storage.list_names(self.folder)
        return [name for name in names if name == MANIFEST] + [name for name in names if PART.fullmatch(name)]


def settle(results: Results, wanted: Sequence[Row], overwrite: bool, real: Collection[str] = ()) -> list[str]:
    """Bring a folder that may hold an earlier run in order, on one rank, and return the stems still to be made.

    Keeps images whose row says the same of them, and whose pictures are there: those in `real` have a real image beside
    them, which also says whether there is colour. Raises UserError if the folder holds images made otherwise (with
    `overwrite` they are removed), or results without a manifest.
    """
    made = results.made()
    _refuse_foreign(results, made, overwrite)
    by_stem = {row.stem: row for row in wanted}
    kept, differing, whole = {}, [], results.with_files(real)
    for stem, row in made.items():
        expected = by_stem.get(stem)
        difference = _difference(
            row, expected or wanted[0], FREE if expected else (*FREE, "stem", "label_sha256", "round")
        )
        if difference:
            differing.append((stem, difference))
        elif stem in whole:
            kept[stem] = row | {"index": str(expected.index)} if expected else row
    if differing and not overwrite:
        stem, (name, old, new) = differing[0]
        raise UserError(
            f"{results.folder} holds {len(differing)} images made with other settings ({stem}: {name} {old}, not "
            f"{new}): choose another --results_dir, or add --overwrite True to replace them"
        )
    missing = [row.stem for row in wanted if row.stem not in kept]
    results.create_folders()
    if missing:
        results.mark_unfinished()
    results.remove(stem for stem, _ in differing)
    results.merge(kept.values(), finished=not missing)
    return missing


def _refuse_foreign(results: Results, made: dict, overwrite: bool) -> None:
    """Raise UserError where a file of somebody else's might be replaced: with a manifest, or a part, all is ours."""
    if made or overwrite or not storage.is_folder(results.folder) or results.manifests():
        return
    there = set(storage.list_names(results.folder))
    ours = {name for name in FOLDERS if name in there and storage.list_names(storage.join(results.folder, name))}
    ours |= there & {METADATA, DESCRIPTION, PREVIEW}
    if ours:
        raise UserError(
            f"{results.folder} holds {', '.join(sorted(ours))} without a manifest, so nobody knows what made them: "
            "choose another --results_dir, or add --overwrite True to replace what has the same name"
        )


def refuse_sources(results_dir: str, datadir: str, paths: Iterable[str | None]) -> None:
    """Raise UserError if files of `datadir`, whose pictures are at `paths`, might be replaced by results."""
    written = {os.path.realpath(storage.join(results_dir, kind)) for kind in FOLDERS}
    read = {os.path.realpath(folder) for folder in {os.path.dirname(path) for path in paths if path}}
    if os.path.realpath(results_dir) == os.path.realpath(datadir) or written & read:
        raise UserError(f"results_dir {results_dir} holds the pictures of datadir {datadir}, which would be replaced")


def wrong_name(stem: str) -> str | None:
    """Why no image can be called `stem`, in words; None if it can."""
    if stem in ("", ".", "..") or re.search(r"[/\\\0]", stem):
        return "is no name of an image (as a path it leads elsewhere)"
    if len(stem.encode()) > LONGEST_NAME:
        return f"has more than {LONGEST_NAME} bytes"
    return None


def _refuse_no_name(stem: str, path: str) -> None:
    """Raise UserError for a stem that would lead out of the folder: images of that name may come to be deleted."""
    if wrong_name(stem):
        raise UserError(f"{path} names {stem!r}, which is no name of an image: correct that line, or delete the file")


def _difference(row: dict[str, str], expected: Row, free: Sequence[str]) -> tuple[str, str, str] | None:
    for name, value in vars(expected).items():
        if name not in free and row.get(name) != str(value):
            return name, row.get(name, "unknown"), str(value)
    return None


def _to_csv(rows: Iterable[Row | dict[str, str]], header: bool = True) -> bytes:
    """A line for each row. Carriage returns within it are quoted, too: readers take either character for its end."""
    lines: list[str] = []
    writer = csv.DictWriter(SimpleNamespace(write=lines.append), COLUMNS, lineterminator="\r\n", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(row if isinstance(row, dict) else vars(row) for row in rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines).encode()


def _read_csv(path: str) -> list[dict[str, str]]:
    """The rows of a manifest; one that a crash has cut short is left out. Raises UserError for what is none."""
    with storage.open_for_reading(path) as file:
        data = file.read()
    rows = parse_csv(data[: data.rfind(b"\n") + 1], path, columns=("stem", "index"), torn=True)
    checked(list[ManifestRow], rows, path)
    return [FORMER | row for row in rows]

"""What the name of a file says: the frame, its patient, view, phase and split, and what this toolkit has appended.

`_k` numbers the deformed copies of a frame, `_rN` the rounds of repeated sampling. The mark before them, "_" for CAMUS,
is longer where names of a data set themselves end so (`choose_mark`): whatever a user calls a file, the two can be told
apart.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from command import UserError
from dataset_description import COLUMNS, METADATA, Description, camus, read_description
from dataset_schema import FIELDS, Table
from schema import parse_csv

OWN_TABLE = Table(path=METADATA, columns=COLUMNS)  # as the toolkit writes it into view folders
SPLITS = ("training", "validation", "testing")
SPLIT_OF_WORD = {"train": "training", "val": "validation", "valid": "validation", "dev": "validation"}
SPLIT_OF_WORD |= {"test": "testing"} | {split: split for split in SPLITS}
ALL_VIEWS = "all_views"
LONGEST_NAME = 200  # bytes: room for what is appended, in the 255 that file systems allow


@dataclass(frozen=True)
class Stem:
    """What the name of an extracted, deformed or synthetic image says (without .png)."""

    source: str  # the name of the real frame that this comes from
    patient: str
    view: str  # of its view folder: with the phase, where there is one
    phase: str
    split: str
    repeat: int | None = None  # _k of a deformed label map
    round: int = 0  # _rN of repeated sampling
    mark: str = "_"

    def __str__(self) -> str:
        return self.label_map + (f"{self.mark}r{self.round}" if self.round else "")

    @property
    def is_real(self) -> bool:
        """Whether this is the name of a frame as extracted."""
        return self.repeat is None and not self.round

    @property
    def label_map(self) -> str:
        """The name of the label map that this shows, or was drawn for: the same in all rounds."""
        return self.source + ("" if self.repeat is None else f"{self.mark}{self.repeat}")


def appended(mark: str) -> re.Pattern:
    """Matches a name with what is appended to it."""
    return re.compile(rf"(?P<source>.+?)(?:{mark}(?P<repeat>0|[1-9]\d*))?(?:{mark}r(?P<round>[1-9]\d*))?", re.DOTALL)


def choose_mark(names: Iterable[str]) -> str:
    """The shortest mark, of underscores, with which no name of a real frame looks like one with something appended."""
    ends = [re.search(r"(_+)r?\d+\Z", name) for name in names]
    return "_" * (1 + max((len(found[1]) for found in ends if found), default=0))


def view_folder(view: str, phase: str) -> str:
    """2CH, ED -> 2CH_ED, which it stays if it is called that already, as ED does; empty if nothing is known."""
    return f"{view}_{phase}" if view and phase and not f"_{view}".endswith(f"_{phase}") else view or phase


def _meant(field: str, value: str) -> str:
    """What a word of a name or table says: splits have several words."""
    return SPLIT_OF_WORD.get(value.lower(), value) if field == "split" else value


@dataclass(frozen=True)
class Naming:
    """The names of one data set, or view folder: `rows` are those of the description's table, by what finds them."""

    description: Description
    rows: Mapping[str, Mapping[str, str]]

    @cached_property
    def pattern(self) -> re.Pattern | None:
        names = self.description.names
        return None if names.pattern is None else re.compile(names.pattern)

    @cached_property
    def appended(self) -> re.Pattern:
        return appended(self.description.names.mark)

    def fields(self, name: str, *others: str) -> dict[str, str] | None:
        """patient, view, phase and split of the frame `name`, empty where nothing says so; None for no such name.

        `others` are looked for in the table, too. Raises UserError where name and table contradict each other.
        """
        found = dict.fromkeys(FIELDS, "")
        if self.pattern is not None:
            match = self.pattern.fullmatch(name)
            if not match:
                return None
            found |= {field: value for field, value in match.groupdict().items() if value}
        table = self.description.names.table
        if table is not None:
            keys = (name, *others) if "file" in table.columns else (found["patient"],)
            row = next((self.rows[key] for key in keys if key in self.rows), None)
            if row is None:
                return None
            columns = {field: row[column] for field, column in table.columns.items() if field in FIELDS and row[column]}
            for field, value in columns.items():
                if found[field] and _meant(field, found[field]) != _meant(field, value):
                    raise UserError(f"its {field} is {found[field]} by its name, {value} by the table")
            found |= columns
        return found if found["patient"] else None

    def parse(self, name: str) -> Stem:
        """`name` (without .png) taken apart. Raises UserError for what is none, and for a frame without a split."""
        match = self.appended.fullmatch(name)
        source, repeat = match and match["source"], match and match["repeat"]
        label_map = source if repeat is None else f"{source}{self.description.names.mark}{repeat}"
        found = match and self.fields(source, label_map, name)
        if not found or found["split"] not in SPLITS:
            table = self.description.names.table
            raise UserError(f"{name!r} is not {'in ' + table.path if table else self.description.names.form}")
        view = view_folder(found["view"], found["phase"])
        repeat = None if repeat is None else int(repeat)
        round_ = int(match["round"] or 0)
        mark = self.description.names.mark
        return Stem(source, found["patient"], view, found["phase"], found["split"], repeat, round_, mark)


def read_table(folder: Path, description: Description) -> dict[str, dict[str, str]]:
    """The rows of the description's table, which lies in `folder`, by the column that finds them. Blanks around what
    people wrote into theirs are no part of it; the toolkit's own has names as they are. Raises UserError."""
    table = description.names.table
    if table is None:
        return {}
    path = folder / table.path
    if not path.is_file():
        raise UserError(f"{path} is missing, which names the frames")
    key = table.columns.get("file", table.columns.get("patient"))
    rows: dict[str, dict[str, str]] = {}
    for row in parse_csv(path.read_bytes(), str(path), tuple(table.columns.values())):
        if table != OWN_TABLE:
            row |= {column: row[column].strip() for column in table.columns.values()}  # 'A ' and 'A' are one patient
        if row[key] in rows and "file" in table.columns:
            raise UserError(f"{path}: {row[key]!r} stands in it twice")
        if any(row[column] != rows.get(row[key], row)[column] for column in table.columns.values()):
            raise UserError(f"{path}: {row[key]!r} has two rows that disagree")
        rows[row[key]] = row
    return rows


def naming_of(folder: Path) -> Naming:
    """The names in a view folder, or in sampling results. Raises UserError."""
    description = read_description(folder)
    return Naming(description, read_table(folder, description))


def parse_stem(name: str) -> Stem:
    """A name of CAMUS. Raises UserError for what is not <patient>_<view>_<split>[_k][_rN]."""
    return Naming(camus(), {}).parse(name)

"""The form of a dataset.json: its keys, their types, and what the types do not say.

`Form.model_json_schema()` is the JSON schema that editors go by, docs/dataset.schema.json. This file stands in each of
the three script folders, which do not import one another.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from schema import Record, shown

FIELDS = ("patient", "view", "phase", "split")
LONGEST_MARK = 40

Byte = Annotated[int, Interval(ge=0, le=255)]
Values = Annotated[list[Byte], Len(min_length=1)]
Colour = tuple[Byte, Byte, Byte]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=60)]
Mark = Annotated[str, StringConstraints(pattern=r"^_+$", max_length=LONGEST_MARK)]
Millimetres = Annotated[float, Interval(gt=0, le=1e3)]


class Strict(Record):
    """A schema in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassOf(Strict):
    name: Word
    title: Word | None = Field(None, description="As people read it, in tables, figures and nnU-Net's label names.")
    colour: Colour | None = Field(None, description="Red, green, blue, 0 to 255.")
    value: Byte | None = Field(None, description="In the label maps given; by default the place in the list, from 0.")


class Table(Strict):
    path: str = Field(description="A CSV file, from the folder of dataset.json.")
    columns: dict[Literal["file", "patient", "view", "phase", "split"], str] = Field(
        description="The columns that give these. Rows are found by file, or else by patient."
    )


class Names(Strict):
    pattern: str | None = Field(None, description="A regular expression of the whole name, without its ending.")
    form: str = Field("a name that names.pattern matches", description="The same for people, in messages.")
    table: Table | None = None
    label_ending: str = Field("", description="What the name of a label map has after that of its image.")
    mark: Mark = Field("_", description="Written by the toolkit: what stands before the numbers that it appends.")


class Sector(Strict):
    outside: Byte = Field(0, description="The condition outside of the sector.")
    inside: Byte = Field(
        description="The condition of the background inside; the other classes take the rest in order."
    )
    colours: list[Colour] | None = Field(None, description="Of the conditions, if not those of the classes.")


class Structure(Strict):
    classes: Values
    title: Word | None = None
    console: Word | None = Field(None, description="Its name in the line that test_model.py prints.")
    colour: Colour | None = Field(None, description="In figures; by default that of the last of its classes.")
    in_mean: bool = Field(True, description="Whether it counts for the mean Dice of that line and of the training.")


class Volumes(Strict):
    views: Annotated[list[Word], Len(2, 2)] = Field(description="The two-chamber view, then the four-chamber view.")
    phases: Annotated[list[Word], Len(2, 2)] = Field(description="End diastole, then end systole.")
    cavity: Byte
    wall: Byte | None = None
    atrium: Byte | None = None


def _as_structure(value):
    return {"classes": value} if isinstance(value, list) else value


class Form(Strict):
    """A dataset.json. Where it names values of classes, they are those of the label maps given."""

    name: Word
    about: str = ""
    modality: Word = "ultrasound"
    names: Names
    classes: Annotated[list[ClassOf], Len(2, 256)] = Field(description="The background first.")
    sector: Sector | None = Field(None, description="Of images that show a sector on 0; null: they are full.")
    reported: (
        dict[Word, Annotated[Structure, BeforeValidator(_as_structure, json_schema_input_type=Values | Structure)]]
        | None
    ) = Field(None, description="Structures by name: lists of classes. By default each class but the background.")
    keep_whole: list[Byte] | None = Field(
        None, description="Classes that no deformation may lose or split. By default all but the background."
    )
    spacing_mm: Annotated[list[Millimetres], Len(2, 2)] | None = Field(
        None, description="Size of a pixel (depth, lateral) of files that do not say."
    )
    volumes: Volumes | None = Field(None, description="What makes volumes and ejection fractions, if anything.")

    @property
    def values(self) -> tuple[int, ...]:
        """Of each class, in the label maps given."""
        return tuple(place if one.value is None else one.value for place, one in enumerate(self.classes))


def contradictions(found: Form) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of all that the types do not say."""
    yield from _twice("name", [one.name for one in found.classes])
    yield from _twice("value", found.values)
    known = ", ".join(map(str, found.values))
    named = [(f"reported.{name}", one.classes) for name, one in (found.reported or {}).items()]
    named.append(("keep_whole", found.keep_whole or []))
    if found.volumes:
        parts = {part: getattr(found.volumes, part) for part in ("cavity", "wall", "atrium")}
        named += [(f"volumes.{part}", [value]) for part, value in parts.items() if value is not None]
    for key, values in named:
        for value in values:
            if value not in found.values:
                yield key, f"{value} is the value of no class (those are {known})"
        if len(set(values)) < len(values):
            yield key, "a value stands there twice"
    if found.reported is not None and not found.reported:
        yield "reported", "is empty: leave it out to report each class by itself"
    if found.reported and not any(one.in_mean for one in found.reported.values()):
        yield "reported", "none is in_mean: the mean, by which a network is chosen, would be of nothing"
    if found.keep_whole and found.values[0] in found.keep_whole:
        yield "keep_whole", f"{found.values[0]} is the background"
    if found.volumes:
        for key in ("views", "phases"):
            if len(set(getattr(found.volumes, key))) < 2:
                yield f"volumes.{key}", "both are the same"
    if found.sector:
        yield from _of_the_sector(found.sector, len(found.classes) + 1)
    yield from _of_names(found.names)


def _twice(key: str, values: Sequence) -> Iterator[tuple[str, str]]:
    for place, value in enumerate(values):
        if value in values[:place]:
            yield f"classes.{place}.{key}", f"{value} stands there twice"


def _of_the_sector(sector: Sector, conditions: int) -> Iterator[tuple[str, str]]:
    for key in ("outside", "inside"):
        if getattr(sector, key) >= conditions:
            yield f"sector.{key}", f"{getattr(sector, key)}: with the outside there are {conditions}, from 0"
    if conditions > 256:
        yield "classes", "with a sector there may be 255 of them"
    if sector.outside == sector.inside:
        yield "sector.inside", f"{sector.inside} is the outside, too"
    if sector.colours is not None and len(sector.colours) != conditions:
        yield "sector.colours", f"{len(sector.colours)} of them, and {conditions} conditions"


def _of_names(names: Names) -> Iterator[tuple[str, str]]:
    groups: set[str] = set()
    if names.pattern is not None:
        try:
            groups = set(re.compile(names.pattern).groupindex)
        except re.error as error:
            yield "names.pattern", f"{shown(names.pattern)} is no regular expression: {error}"
            return
        for group in sorted(groups - set(FIELDS)):
            yield "names.pattern", f"(?P<{group}>…) is none of {', '.join(FIELDS)}"
    columns = names.table.columns if names.table else {}
    if names.table:
        path = names.table.path
        if ".." in (PurePosixPath(path).parts + PureWindowsPath(path).parts) or path.startswith(("/", "\\")):
            yield "names.table.path", f"{path} does not lie in the folder of dataset.json, or below"
    if "patient" not in groups | columns.keys():
        yield "names", "neither a group of the pattern, (?P<patient>…), nor a column of the table gives the patient"
    if names.table and "file" not in columns and not {"patient"} <= groups & columns.keys():
        yield "names.table.columns", "without file, rows are found by patient: the pattern and the table must give it"

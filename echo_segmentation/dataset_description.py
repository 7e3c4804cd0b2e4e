"""What a data set is, as its dataset.json says: names of files, classes, sector, what is reported.

A view folder without a dataset.json is CAMUS, whose own description, `camus.json`, has the same form. Classes have two
numberings: *plain* labels, as people draw them (the place in `classes`, the background first), and *conditions*, which
the diffusion model sees: the same, or where images show a sector, one class more, for what lies outside of it. This
file stands in each of the three script folders, which do not import one another.
"""

import json
import re
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval, Len
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from command import UserError
from schema import Record, checked, parse_json, shown

DESCRIPTION, METADATA = "dataset.json", "metadata.csv"
CAMUS_FILE = Path(__file__).with_name("camus.json")
FIELDS = ("patient", "view", "phase", "split")
COLUMNS = {"file": "stem", **{name: name for name in FIELDS}}  # of metadata.csv
# Of classes without a colour; told apart by the colour-blind too (Okabe & Ito 2008).
COLOURS = ((230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (86, 180, 233), (240, 228, 66), (213, 94, 0))
BLACK, DULL_GREY = (0, 0, 0), (90, 90, 90)

Byte = Annotated[int, Interval(ge=0, le=255)]
Values = Annotated[list[Byte], Len(min_length=1)]
Colour = tuple[Byte, Byte, Byte]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=60)]
Mark = Annotated[str, StringConstraints(pattern=r"^_{1,50}$")]
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


class Description(Strict):
    """A dataset.json. Where it names values of classes, they are those of the label maps given."""

    name: Word
    about: str = ""
    modality: Word = "ultrasound"
    names: Names
    classes: Annotated[list[ClassOf], Len(2, 256)] = Field(description="The background first.")
    sector: Sector | None = Field(None, description="Of images that show a sector on 0; null: they are full.")
    reported: dict[Word, Annotated[Structure, BeforeValidator(_as_structure)]] | None = Field(
        None, description="Structures by name: lists of classes. By default each class but the background."
    )
    keep_whole: list[Byte] | None = Field(
        None, description="Classes that no deformation may lose or split. By default all but the background."
    )
    spacing_mm: Annotated[list[Millimetres], Len(2, 2)] | None = Field(
        None, description="Size of a pixel (depth, lateral) of files that do not say."
    )
    volumes: Volumes | None = Field(None, description="What makes volumes and ejection fractions, if anything.")

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Of each class, in the label maps given."""
        return tuple(place if one.value is None else one.value for place, one in enumerate(self.classes))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_conditions(self) -> int:
        return len(self.classes) + (self.sector is not None)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.classes)

    @cached_property
    def colours(self) -> np.ndarray:
        """RGB of each class, uint8 [classes, 3]."""
        others = [COLOURS[(place - 1) % len(COLOURS)] for place in range(1, self.num_classes)]
        found = zip(self.classes, [BLACK, *others], strict=True)
        return np.array([one.colour or other for one, other in found], np.uint8)

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """What is reported, by name."""
        if self.reported is not None:
            return self.reported
        pairs = zip(self.classes[1:], self.values[1:], strict=True)
        return {one.name: Structure(classes=[value], title=one.title) for one, value in pairs}

    def plain_labels(self, structure: str) -> tuple[int, ...]:
        """Of the classes of a structure."""
        return tuple(self.values.index(value) for value in self.structures[structure].classes)

    def with_classes(self, count: int) -> "Description":
        """The same for label maps of another number of classes: the first ones alone, or more, called class_N."""
        added = [ClassOf(name=f"class_{place}") for place in range(self.num_classes, count)]
        classes = [*self.classes, *added][:count]
        known = set(self.values[:count])
        kept = {name: one for name, one in self.structures.items() if known.issuperset(one.classes)}
        kept |= {one.name: Structure(classes=[place]) for place, one in enumerate(classes) if one in added}
        return self.changed(classes=classes, reported=kept)

    def title(self, structure: str) -> str:
        return (self.structures[structure].title if structure in self.structures else None) or structure

    @cached_property
    def conditions(self) -> np.ndarray:
        """The condition inside the sector of each plain label, uint8 [classes]."""
        if self.sector is None:
            return np.arange(self.num_classes, dtype=np.uint8)
        taken = (self.sector.outside, self.sector.inside)
        others = [value for value in range(self.num_conditions) if value not in taken]
        return np.array([self.sector.inside, *others], np.uint8)

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Of each condition, the outside of the sector among them."""
        names = dict(zip(self.conditions.tolist(), self.class_names, strict=True))
        return tuple(names.get(value, "outside") for value in range(self.num_conditions))

    @cached_property
    def condition_colours(self) -> np.ndarray:
        """RGB of each condition, uint8 [conditions, 3]."""
        if self.sector is None:
            return self.colours
        if self.sector.colours is not None:
            return np.array(self.sector.colours, np.uint8)
        found = np.zeros((self.num_conditions, 3), np.uint8)
        found[self.conditions] = self.colours
        found[self.sector.inside] = DULL_GREY
        return found

    @property
    def quiet_conditions(self) -> tuple[int, ...]:
        """Conditions that show nothing: the background, and what lies outside of the sector."""
        return (0,) if self.sector is None else (self.sector.outside, self.sector.inside)

    def to_conditions(self, label: np.ndarray, cone: np.ndarray) -> np.ndarray:
        """Plain `label` within the sector `cone` (bool, the same shape) -> conditions, uint8, cut at the sector."""
        inside = self.conditions[label]
        return inside if self.sector is None else np.where(cone, inside, np.uint8(self.sector.outside))

    def from_conditions(self, conditions: np.ndarray) -> np.ndarray:
        """Conditions -> plain labels, uint8; outside of the sector is background."""
        plain = np.zeros(self.num_conditions, np.uint8)
        plain[self.conditions] = np.arange(self.num_classes)
        return plain[conditions]

    def kept_whole(self) -> tuple[int, ...]:
        """Plain labels of the classes that no deformation may lose or split."""
        kept = self.values[1:] if self.keep_whole is None else self.keep_whole
        return tuple(self.values.index(value) for value in kept)

    def travelling(self, mark: str) -> "Description":
        """The description of view folders made from this set: plain labels, names as metadata.csv beside it tells."""
        place = {value: place for place, value in enumerate(self.values)}
        renumbered = {name: one.model_copy(update={"classes": [place[v] for v in one.classes]})
                      for name, one in (self.reported or {}).items()}  # fmt: skip
        parts = ("cavity", "wall", "atrium")
        volumes = self.volumes and self.volumes.model_copy(
            update={part: place.get(getattr(self.volumes, part)) for part in parts}
        )
        changes = {
            "names": Names(table=Table(path=METADATA, columns=COLUMNS), mark=mark),
            "classes": [one.model_copy(update={"value": None}) for one in self.classes],
            "reported": renumbered or None,
            "keep_whole": None if self.keep_whole is None else [place[value] for value in self.keep_whole],
            "volumes": volumes,
        }
        return self.changed(**changes)

    def changed(self, **changes) -> "Description":
        """With other values of some keys (`model_copy` would keep what was worked out from the old ones)."""
        return Description.model_construct(**{key: getattr(self, key) for key in Description.model_fields} | changes)

    def as_json(self) -> str:
        """Its text, without what is the default; lists of numbers on one line."""
        text = json.dumps(self.model_dump(exclude_defaults=True), indent=2, ensure_ascii=False)
        return re.sub(r"\[\s+(\d[\d,.\s]*)\s\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def parse_description(data: bytes, where: str) -> Description:
    """The description in the bytes of a dataset.json. Raises UserError, which names the key that is wrong."""
    content = parse_json(data, where)
    if isinstance(content, dict):
        content.pop("$schema", None)  # what editors go by
    found = checked(Description, content, where)
    for key, wrong in _contradictions(found):
        raise UserError(f"{where}: {key}: {wrong}")
    return found


@cache
def camus() -> Description:
    """CAMUS' own."""
    return parse_description(CAMUS_FILE.read_bytes(), CAMUS_FILE.name)


def read_description(folder: Path) -> Description:
    """Of a view folder: its dataset.json, or CAMUS' where it has none. Raises UserError."""
    path = folder / DESCRIPTION
    return parse_description(path.read_bytes(), str(path)) if path.is_file() else camus()


def _contradictions(found: Description):
    """(key, what is wrong) of all that the types do not say."""
    yield from _twice("name", [one.name for one in found.classes])
    yield from _twice("value", found.values)
    known = ", ".join(map(str, found.values))
    named = [(f"reported.{name}", one.classes) for name, one in found.structures.items()]
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
    if found.keep_whole and found.values[0] in found.keep_whole:
        yield "keep_whole", f"{found.values[0]} is the background"
    if found.volumes:
        for key in ("views", "phases"):
            if len(set(getattr(found.volumes, key))) < 2:
                yield f"volumes.{key}", "both are the same"
    if found.sector:
        yield from _of_the_sector(found.sector, found.num_conditions)
    yield from _of_names(found.names)


def _twice(key: str, values):
    for place, value in enumerate(values):
        if value in values[:place]:
            yield f"classes.{place}.{key}", f"{value} stands there twice"


def _of_the_sector(sector: Sector, conditions: int):
    for key in ("outside", "inside"):
        if getattr(sector, key) >= conditions:
            yield f"sector.{key}", f"{getattr(sector, key)}: with the outside there are {conditions}, from 0"
    if sector.outside == sector.inside:
        yield "sector.inside", f"{sector.inside} is the outside, too"
    if sector.colours is not None and len(sector.colours) != conditions:
        yield "sector.colours", f"{len(sector.colours)} of them, and {conditions} conditions"


def _of_names(names: Names):
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
    if "patient" not in groups | columns.keys():
        yield "names", "neither a group of the pattern, (?P<patient>…), nor a column of the table gives the patient"
    if names.table and "file" not in columns and not {"patient"} <= groups & columns.keys():
        yield "names.table.columns", "without file, rows are found by patient: the pattern and the table must give it"

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

import numpy as np

from command import UserError
from dataset_schema import FIELDS, ClassOf, Form, Names, Structure, Table, contradictions
from input_files import read_if_there
from schema import checked, parse_json

DESCRIPTION, METADATA = "dataset.json", "metadata.csv"
CAMUS_FILE = Path(__file__).with_name("camus.json")
COLUMNS = {"file": "stem", **{name: name for name in FIELDS}}  # of metadata.csv
# Of classes without a colour; told apart by the colour-blind too (Okabe & Ito 2008).
COLOURS = ((230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (86, 180, 233), (240, 228, 66), (213, 94, 0))
BLACK, DULL_GREY = (0, 0, 0), (90, 90, 90)


class Description(Form):
    """A dataset.json, and what follows from it."""

    def __eq__(self, other: object) -> bool:
        """By the keys alone, whatever was worked out from them already."""
        return isinstance(other, Form) and all(getattr(self, key) == getattr(other, key) for key in Form.model_fields)

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
    for key, wrong in contradictions(found):
        raise UserError(f"{where}: {key}: {wrong}")
    return found


@cache
def camus() -> Description:
    """CAMUS' own."""
    return parse_description(CAMUS_FILE.read_bytes(), CAMUS_FILE.name)


def read_description(folder: Path) -> Description:
    """Of a view folder: its dataset.json, or CAMUS' where it has none. Raises UserError."""
    path = folder / DESCRIPTION
    data = read_if_there(path)
    return camus() if data is None else parse_description(data, str(path))

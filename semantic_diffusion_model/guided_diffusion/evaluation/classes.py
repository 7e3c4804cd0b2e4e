"""What the classes of a data set mean to the evaluation, as its description says (CAMUS' where it has none)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset_description import Description

Values = tuple[int, ...]


@dataclass(frozen=True)
class Classes:
    """Classes are meant by their values in the label maps that images are drawn for, the conditions; `structures` alone
    by plain labels, which predictions hold."""

    description: Description

    @cached_property
    def names(self) -> tuple[str, ...]:
        """By value. Within a sector, the background has the name `cone_background`, say: not all of it is meant."""
        found = list(self.description.condition_names)
        if self.description.sector is not None:
            found[self.background] = f"cone_{found[self.background]}"
        return tuple(found)

    @cached_property
    def outside(self) -> int | None:
        """What lies outside of the sector; None where images are whole."""
        return None if self.description.sector is None else self.description.sector.outside

    @cached_property
    def background(self) -> int:
        return int(self.description.conditions[0])

    @cached_property
    def inside(self) -> Values:
        """All but the outside."""
        return tuple(value for value in range(len(self.names)) if value != self.outside)

    @cached_property
    def drawn(self) -> Values:
        """All but background and outside."""
        return tuple(value for value in self.inside if value != self.background)

    def shown(self, labels: np.ndarray) -> np.ndarray:
        """Where `labels` are of the image, bool: within its sector, if it has one."""
        return np.ones(labels.shape, bool) if self.outside is None else labels != self.outside

    @cached_property
    def structures(self) -> dict[str, Values]:
        """What label agreement is told of, by name: plain labels of what is reported and counts for its mean."""
        described = self.description.structures
        return {name: self.description.plain_labels(name) for name, one in described.items() if one.in_mean}

    @cached_property
    def contrasts(self) -> dict[str, tuple[Values, Values]]:
        """What is told apart, by name: cavity and wall where there are volumes; else each structure and background."""
        volumes = self.description.volumes
        if volumes is not None and volumes.wall is not None:
            pair = [self._conditions([self.description.values.index(part)]) for part in (volumes.cavity, volumes.wall)]
            return {" against ".join(self.names[one] for (one,) in pair): (pair[0], pair[1])}
        background = (self.background,)
        return {
            f"{name} against {self.names[self.background]}": (self._conditions(labels), background)
            for name, labels in self.structures.items()
            if 0 not in labels
        }

    @cached_property
    def upright(self) -> Values:
        """What images are turned upright by: cavity and wall where there are volumes, else all that is drawn."""
        volumes = self.description.volumes
        if volumes is None:
            return self.drawn
        parts = [part for part in (volumes.cavity, volumes.wall) if part is not None]
        return self._conditions([self.description.values.index(part) for part in parts])

    def _conditions(self, labels: list[int] | Values) -> Values:
        return tuple(int(self.description.conditions[label]) for label in labels)

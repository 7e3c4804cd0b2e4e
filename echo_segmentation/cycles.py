"""The left ventricle over time: area of the cavity, volume from both views, ED, ES and the ejection fraction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ejection_fraction import CAVITY, LongAxis, biplane_volume_ml, ejection_fraction, largest_part, measure_long_axis

VIEWS, PHASES = ("2CH", "4CH"), ("ED", "ES")
MM2_PER_CM2 = 100
NAN = float("nan")


@dataclass(frozen=True)
class Ventricle:
    """The cavity in one frame."""

    area_cm2: float
    axis: LongAxis | None
    """None where there is no cavity or no base."""


@dataclass(frozen=True)
class Cycle:
    """A patient's ventricle at several times, in one view or both."""

    patient: str
    source: str
    """`sequence`, or `frames`: one of ED and one of ES, which are files of their own."""
    views: dict[str, Sequence[Ventricle]]
    ed: dict[str, int]
    """By view, the frame of end diastole; empty where no frame shows a ventricle."""
    es: dict[str, int]

    @property
    def edv_ml(self) -> float:
        """End-diastolic volume; NaN without both views."""
        return self.volume_ml(self.ed)

    @property
    def esv_ml(self) -> float:
        """End-systolic volume, likewise."""
        return self.volume_ml(self.es)

    @property
    def ejection_fraction(self) -> float:
        """In %; NaN without both views."""
        return ejection_fraction(self.edv_ml, self.esv_ml)

    def volume_ml(self, frames: dict[str, int]) -> float:
        """Simpson's biplane volume of one frame of each view; NaN if a view is missing or shows no ventricle."""
        if set(frames) != set(VIEWS):
            return NAN
        return biplane_volume_ml(*(self.views[view][frames[view]].axis for view in VIEWS))

    def areas_cm2(self, view: str) -> np.ndarray:
        """Of the cavity in each frame of a view."""
        return np.array([ventricle.area_cm2 for ventricle in self.views[view]])

    def times(self) -> list[dict[str, int]]:
        """By view, the frames that belong together, time by time.

        Two sequences are taken to cover the same part of the heart's cycle, whatever their numbers of frames: the times
        are those of the longer one, and of the other the frame nearest in relative time is taken.
        """
        count = max(map(len, self.views.values()))
        frames = {view: np.linspace(0, len(found) - 1, count).round().astype(int) for view, found in self.views.items()}
        return [{view: int(frames[view][time]) for view in self.views} for time in range(count)]


def measure_ventricle(labels: np.ndarray, spacing_mm: Sequence[float]) -> Ventricle:
    """Of a label map (rows = depth, columns = lateral): the largest connected cavity; see `measure_long_axis`."""
    pixels = largest_part(labels == CAVITY).sum()
    return Ventricle(float(pixels * spacing_mm[0] * spacing_mm[1] / MM2_PER_CM2), measure_long_axis(labels, spacing_mm))


def cycle_of_sequences(patient: str, views: dict[str, Sequence[Ventricle]]) -> Cycle:
    """From the sequences of one view or both: in each, the largest cavity is at ED, the smallest at ES. The views are
    recorded one after the other, so that each has its own.
    """
    ed, es = {}, {}
    for view, found in views.items():
        areas = {index: ventricle.area_cm2 for index, ventricle in enumerate(found) if ventricle.axis is not None}
        if areas:
            ed[view], es[view] = max(areas, key=areas.get), min(areas, key=areas.get)
    return Cycle(patient, "sequence", views, ed, es)


def cycle_of_frames(patient: str, views: dict[str, dict[str, Ventricle]]) -> Cycle:
    """From frames of known phase, by view and phase, both phases of each view."""
    pairs = {view: [found[phase] for phase in PHASES] for view, found in views.items()}
    return Cycle(patient, "frames", pairs, dict.fromkeys(pairs, 0), dict.fromkeys(pairs, 1))


def collect_cycles(measured: Iterable[tuple[str, str, str, Sequence[Ventricle]]]) -> list[Cycle]:
    """The cycles in (patient, view, phase, ventricles of the frames) of many files: of sequences, and of frames whose
    phase is known and which has its partner.
    """
    sequences: dict[str, dict[str, Sequence[Ventricle]]] = {}
    frames: dict[str, dict[str, dict[str, Ventricle]]] = {}
    for patient, view, phase, ventricles in measured:
        if len(ventricles) > 1:
            sequences.setdefault(patient, {})[view] = ventricles
        elif phase:
            frames.setdefault(patient, {}).setdefault(view, {})[phase] = ventricles[0]
    cycles = [cycle_of_sequences(patient, views) for patient, views in sequences.items()]
    for patient, views in frames.items():
        whole = {view: found for view, found in views.items() if len(found) == len(PHASES)}
        cycles += [cycle_of_frames(patient, whole)] if whole else []
    return cycles


def time_rows(cycle: Cycle) -> list[dict[str, Any]]:
    """A row for each time of a cycle: the frame and area of each view, and the volume."""
    rows = []
    for time, frames in enumerate(cycle.times()):
        row = {"patient": cycle.patient, "source": cycle.source, "time": time}
        row |= {f"frame_{view.lower()}": frames.get(view, "") for view in VIEWS}
        areas = {view: cycle.views[view][index].area_cm2 for view, index in frames.items()}
        row |= {f"area_{view.lower()}_cm2": areas.get(view, NAN) for view in VIEWS}
        rows.append(row | {"volume_ml": cycle.volume_ml(frames)})
    return rows


def summary_row(cycle: Cycle) -> dict[str, Any]:
    """The frames of ED and ES in each view, the volumes and the ejection fraction (%) of a cycle."""
    row = {"patient": cycle.patient, "source": cycle.source}
    for phase, frames in zip(PHASES, (cycle.ed, cycle.es), strict=True):
        row |= {f"{phase.lower()}_frame_{view.lower()}": frames.get(view, "") for view in VIEWS}
    return row | {"edv_ml": cycle.edv_ml, "esv_ml": cycle.esv_ml, "ef": cycle.ejection_fraction}

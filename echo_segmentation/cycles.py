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


@dataclass(frozen=True)
class Cycle:
    """A patient's ventricle at several times: of one view or of both, which are then as long as each other."""

    patient: str
    is_sequence: bool
    """Otherwise the two times are an ED and an ES frame."""
    frames: dict[str, np.ndarray]
    """By view: the number of the frame at each time, (times,)."""
    areas_cm2: dict[str, np.ndarray]
    volumes_ml: np.ndarray
    """(times,), NaN where a view is missing or shows no ventricle with a base."""
    ed: int | None
    """The times of end diastole and end systole."""
    es: int | None

    @property
    def ejection_fraction(self) -> float:
        """In %; NaN if a volume is missing."""
        if self.ed is None or self.es is None:
            return NAN
        return ejection_fraction(self.volumes_ml[self.ed], self.volumes_ml[self.es])


def measure_ventricle(labels: np.ndarray, spacing_mm: Sequence[float]) -> Ventricle:
    """Of a label map (rows = depth, columns = lateral): the largest connected cavity; see `measure_long_axis`."""
    pixels = largest_part(labels == CAVITY).sum()
    return Ventricle(float(pixels) * spacing_mm[0] * spacing_mm[1] / MM2_PER_CM2, measure_long_axis(labels, spacing_mm))


def cycle_of_sequences(patient: str, views: dict[str, Sequence[Ventricle]]) -> Cycle:
    """From the sequences of one view or both. Two sequences cover the same part of the cycle, whatever their numbers of
    frames: the longer one gives the times, and of the other the frame nearest in relative time is taken.

    ED is the time of the largest volume and ES that of the smallest; of one view alone, of the area.
    """
    times = max(map(len, views.values()))
    frames = {view: np.linspace(0, len(found) - 1, times).round().astype(int) for view, found in views.items()}
    taken = {view: [views[view][index] for index in frames[view]] for view in views}
    cycle = _measure(patient, True, frames, taken)
    curve = cycle.volumes_ml if len(views) == len(VIEWS) else next(iter(cycle.areas_cm2.values()))
    if not np.isfinite(curve).any():
        return cycle
    return Cycle(**vars(cycle) | {"ed": int(np.nanargmax(curve)), "es": int(np.nanargmin(curve))})


def cycle_of_frames(patient: str, views: dict[str, dict[str, Ventricle]]) -> Cycle:
    """From frames of known phase, by view and phase; views that lack one of the two phases are left out."""
    taken = {view: [found[phase] for phase in PHASES] for view, found in views.items() if len(found) == len(PHASES)}
    cycle = _measure(patient, False, {view: np.zeros(2, int) for view in taken}, taken)
    return Cycle(**vars(cycle) | {"ed": 0, "es": 1})


def _measure(
    patient: str, is_sequence: bool, frames: dict[str, np.ndarray], taken: dict[str, list[Ventricle]]
) -> Cycle:
    areas = {view: np.array([ventricle.area_cm2 for ventricle in found]) for view, found in taken.items()}
    volumes = np.full(len(next(iter(areas.values()), ())), NAN)
    if set(taken) == set(VIEWS):
        pairs = zip(*(taken[view] for view in VIEWS), strict=True)
        volumes = np.array([_volume(two.axis, four.axis) for two, four in pairs])
    return Cycle(patient, is_sequence, frames, areas, volumes, None, None)


def _volume(two_chamber: LongAxis | None, four_chamber: LongAxis | None) -> float:
    known = two_chamber is not None and four_chamber is not None
    return biplane_volume_ml(two_chamber, four_chamber) if known else NAN


def time_rows(cycle: Cycle) -> list[dict[str, Any]]:
    """A row for each time of a cycle: frames, areas, volume, and ED or ES."""
    rows = []
    for time, volume in enumerate(cycle.volumes_ml):
        row = {"patient": cycle.patient, "source": source(cycle), "time": time}
        for view in VIEWS:
            row[f"frame_{view.lower()}"] = int(cycle.frames[view][time]) if view in cycle.frames else ""
        for view in VIEWS:
            row[f"area_{view.lower()}_cm2"] = float(cycle.areas_cm2[view][time]) if view in cycle.areas_cm2 else NAN
        phase = {cycle.ed: "ED", cycle.es: "ES"}.get(time, "")
        rows.append(row | {"volume_ml": float(volume), "phase": phase})
    return rows


def summary_row(cycle: Cycle) -> dict[str, Any]:
    """ED, ES, their volumes and the ejection fraction of a cycle."""
    volumes = [NAN if time is None else float(cycle.volumes_ml[time]) for time in (cycle.ed, cycle.es)]
    return {
        "patient": cycle.patient,
        "source": source(cycle),
        "views": " ".join(cycle.frames),
        "time_ed": "" if cycle.ed is None else cycle.ed,
        "time_es": "" if cycle.es is None else cycle.es,
        "edv_ml": volumes[0],
        "esv_ml": volumes[1],
        "ef": cycle.ejection_fraction,
    }


def source(cycle: Cycle) -> str:
    return "sequence" if cycle.is_sequence else "frames"


def collect_cycles(measured: Iterable[tuple[str, str, str, Sequence[Ventricle]]]) -> list[Cycle]:
    """The cycles in (patient, view, phase, ventricles of the frames) of many files: of sequences, and of frames of
    known phase.
    """
    sequences: dict[str, dict[str, Sequence[Ventricle]]] = {}
    frames: dict[str, dict[str, dict[str, Ventricle]]] = {}
    for patient, view, phase, ventricles in measured:
        if len(ventricles) > 1:
            sequences.setdefault(patient, {})[view] = ventricles
        elif phase:
            frames.setdefault(patient, {}).setdefault(view, {})[phase] = ventricles[0]
    cycles = [cycle_of_sequences(patient, views) for patient, views in sequences.items()]
    cycles += [cycle_of_frames(patient, views) for patient, views in frames.items()]
    return [cycle for cycle in cycles if cycle.frames]

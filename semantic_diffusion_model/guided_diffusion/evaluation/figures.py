"""What the tables say, as pictures: real in grey, synthetic in orange, everywhere."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.entries import SECTIONS
from guided_diffusion.evaluation.fingerprints import WAYS
from guided_diffusion.evaluation.frame_numbers import quantities
from guided_diffusion.evaluation.image_sets import Frame, read_frame
from guided_diffusion.evaluation.measuring import Measured
from guided_diffusion.evaluation.memorisation import SHOWN_PAIRS, Judgement, strongest
from guided_diffusion.evaluation.resampling import mean_of

REAL, SYNTHETIC = "0.35", "#e69f00"
DPI = 110
COLUMNS = 4
TICKS = (-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100)
Save = Callable[[Path], None]


def draw(
    classes: Classes,
    entry: dict[str, Any],
    real: Measured,
    synthetic: Measured,
    judgement: Judgement,
    training: Sequence[Frame],
) -> dict[str, Save]:
    """The figures of one synthetic set by name: functions that save them to a path."""
    sides = {"classes": classes, "real": real, "synthetic": synthetic}
    best = {"synthetic": synthetic, "judgement": judgement, "training": training}
    return {
        "grey_levels": partial(grey_levels, **sides),
        "distributions": partial(distributions, **sides),
        "power_spectrum": partial(power_spectrum, entry=entry),
        "differences": partial(differences, classes=classes, entry=entry),
        "nearest": partial(nearest, judgement=judgement),
        "closest_pairs": partial(closest_pairs, classes=classes, **best),
    }


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)


def _title(section: str, row: str, key: str) -> str:
    kind = "correlation length, " if section == "autocorrelation" else ""
    return f"{row}: {kind}{key}".replace("_", " ")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _histograms(panel: Axes, real: np.ndarray, synthetic: np.ndarray, bins: np.ndarray, name: str) -> None:
    """Densities of real values as an area, and of synthetic ones as a line."""
    panel.stairs(*np.histogram(real, bins, density=True), color=REAL, fill=True, alpha=0.6, label=name)
    panel.stairs(*np.histogram(synthetic, bins, density=True), color=SYNTHETIC, lw=1.5, label="synthetic")


def grey_levels(path: Path, classes: Classes, real: Measured, synthetic: Measured) -> None:
    """Share of pixels by grey level in each class but the outside, means over patients."""
    lines = -(-len(classes.inside) // COLUMNS)
    figure = Figure(figsize=(11, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS).ravel()
    tables = [measured.by_patient("grey_levels") for measured in (real, synthetic)]
    for value, panel in zip(classes.inside, axes, strict=False):
        for table, colour, name in zip(tables, (REAL, SYNTHETIC), ("real", "synthetic"), strict=True):
            shares = mean_of(table[:, value]).reshape(64, 4).sum(1) * 100
            panel.stairs(
                shares, np.arange(65) * 4, color=colour, fill=colour == REAL, alpha=0.6 if colour == REAL else 1
            )
            panel.plot([], [], color=colour, label=name)
        panel.set_title(classes.names[value].replace("_", " "), fontsize=9)
        panel.set_xlabel("grey level", fontsize=8)
        _plain(panel)
    axes[0].set_ylabel("% of pixels per 4 levels", fontsize=8)
    axes[len(classes.inside) - 1].legend(frameon=False, fontsize=8)
    for panel in axes[len(classes.inside) :]:
        panel.axis("off")
    _save(figure, path)


def distributions(path: Path, classes: Classes, real: Measured, synthetic: Measured) -> None:
    """Numbers of single frames, real and synthetic: how each is spread, not only where its mean lies."""
    quiet = classes.names[classes.background]
    wanted = [
        (k, q)
        for k, q in enumerate(quantities(classes))
        if q.section == "contrast" or (q.section in ("speckle", "autocorrelation") and q.row != quiet)
        if q.key != "black"
    ]
    lines = -(-len(wanted) // COLUMNS)
    figure = Figure(figsize=(11, 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS).ravel()
    for panel, (k, quantity) in zip(panels, wanted, strict=False):
        sides = [measured.tables["numbers"][:, k] for measured in (real, synthetic)]
        sides = [side[np.isfinite(side)] for side in sides]
        if all(side.size for side in sides):
            low, high = np.quantile(np.concatenate(sides), [0.005, 0.995])
            bins = np.linspace(low, high if high > low else low + 1, 31)
            _histograms(panel, *sides, bins, "real")
        one_pair = quantity.section == "contrast" and len(classes.contrasts) == 1
        row = "" if one_pair else f"{quantity.row.replace('_', ' ')}: "
        unit = f" ({quantity.unit})" if quantity.unit else ""
        kind = "corr. length, " if quantity.section == "autocorrelation" else ""
        panel.set_title(f"{row}{kind}{quantity.key.replace('_', ' ')}{unit}", fontsize=8)
        panel.set_yticks([])
        _plain(panel)
    for panel in panels[len(wanted) :]:
        panel.axis("off")
    panels[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def power_spectrum(path: Path, entry: dict[str, Any]) -> None:
    """Share of the power by spatial frequency, with 95 % bands over patients."""
    curve = entry["spectrum_curve"]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    for name, colour in (("real", REAL), ("synthetic", SYNTHETIC)):
        low, high = np.array(curve[f"{name}_interval_db"], float).T
        panel.fill_between(curve["cycles_per_pixel"], low, high, color=colour, alpha=0.3, lw=0)
        panel.plot(curve["cycles_per_pixel"], curve[f"{name}_db"], color=colour, label=name)
    panel.set_xlabel("spatial frequency (cycles per pixel)")
    panel.set_ylabel("share of the power (dB)")
    panel.legend(frameon=False)
    _plain(panel)
    _save(figure, path)


def _rows(classes: Classes, entry: dict[str, Any], finite: Callable[[dict[str, Any]], bool]) -> list[tuple[str, Any]]:
    """Title and numbers of what is measured within the image, where the numbers are `finite`."""
    outside = None if classes.outside is None else classes.names[classes.outside]
    return [
        (_title(section, row, key), one)
        for section in SECTIONS
        for row, keys in entry[section].items()
        for key, one in keys.items()
        if row != outside and finite(one)
    ]


def _intervals(titles: Sequence[str], values: Sequence[float], intervals: Sequence, colours: Sequence[str]) -> Figure:
    """A point and its interval on a line of its own for each title, from top to bottom; one panel."""
    figure = Figure(figsize=(8, 0.2 * len(titles) + 1), layout="constrained")
    panel = figure.subplots()
    for place, (value, interval, colour) in enumerate(zip(values, intervals, colours, strict=True)):
        panel.plot(interval, [-place, -place], color=colour, lw=1.5)
        panel.plot(value, -place, "o", color=colour, ms=4)
    panel.set_yticks([-place for place in range(len(titles))], titles)
    panel.set_ylim(-len(titles), 1)
    panel.axvline(0, color="0.6", lw=0.8)
    _plain(panel)
    return figure


def differences(path: Path, classes: Classes, entry: dict[str, Any]) -> None:
    """Every difference in units of its yardstick: within -1 .. 1 it is what two halves of the real patients show."""
    rows = _rows(classes, entry, lambda one: one["yardstick"] and one["outside"] is not None)
    values = [one["difference"] / one["yardstick"] for _, one in rows]
    intervals = [[bound / one["yardstick"] for bound in one["interval"]] for _, one in rows]
    colours = [SYNTHETIC if one["outside"] else REAL for _, one in rows]
    figure = _intervals([title for title, _ in rows], values, intervals, colours)
    panel = figure.axes[0]
    panel.axvspan(-1, 1, color="0.9", lw=0, zorder=0)
    panel.set_xscale("symlog", linthresh=2)
    panel.set_xticks(TICKS, map(str, TICKS))
    reach = max([2.0, *(abs(bound) for interval in intervals for bound in interval)])
    panel.set_xlim(-1.2 * reach, 1.2 * reach)
    panel.set_xlabel("synthetic less real, in units of what two halves of the real patients differ by", fontsize=8)
    _save(figure, path)


def nearest(path: Path, judgement: Judgement) -> None:
    """How well the nearest training frame matches, of synthetic and of held-out images, and where copies begin."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, len(WAYS))
    for way, panel in enumerate(panels):
        bins = np.linspace(0, 1, 51)
        _histograms(panel, judgement.held_out[:, way], judgement.synthetic[:, way], bins, "held-out real")
        panel.axvline(judgement.thresholds[way], color="k", ls="--", lw=1, label="copies from here on")
        panel.set_title(WAYS[way], fontsize=9)
        panel.set_xlabel("correlation with the nearest training frame", fontsize=8)
        panel.set_yticks([])
        _plain(panel)
    panels[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def closest_pairs(
    path: Path, classes: Classes, synthetic: Measured, judgement: Judgement, training: Sequence[Frame]
) -> None:
    """The synthetic images that match a training frame best, above those frames (mirrored where they match so)."""
    best = strongest(synthetic.tables["nearest"], judgement.thresholds)
    shown = np.argsort(-best[:, 0])[:SHOWN_PAIRS]
    figure = Figure(figsize=(1.6 * len(shown), 3.9), layout="constrained")
    panels = figure.subplots(2, len(shown))
    for column, index in enumerate(shown):
        correlation, place, flipped = best[index]
        pair = synthetic.frames[index], training[int(place)]
        images = [read_frame(frame, classes)[0] for frame in pair]
        images[1] = images[1][:, ::-1] if flipped else images[1]
        for row, (image, frame) in enumerate(zip(images, pair, strict=True)):
            panels[row, column].imshow(image, cmap="gray", vmin=0, vmax=255)
            panels[row, column].set_xlabel("\n".join(_lines(frame.stem)), fontsize=6)
            panels[row, column].set_xticks([])
            panels[row, column].set_yticks([])
        copy = ", a copy" if judgement.copies[index] else ""
        panels[0, column].set_title(f"{correlation:.2f}{copy}", fontsize=8)
    panels[0, 0].set_ylabel("synthetic", fontsize=8)
    panels[1, 0].set_ylabel("nearest training frame", fontsize=8)
    _save(figure, path)


def _lines(name: str, width: int = 20) -> list[str]:
    return [name[i : i + width] for i in range(0, len(name), width)]


def comparison(path: Path, classes: Classes, entry: dict[str, Any]) -> None:
    """How much farther B is from real than A, in units of A's and B's distances; left of 0 B is nearer."""
    rows = _rows(classes, entry, lambda one: np.isfinite([one["b_farther_from_real"], *one["farther_interval"]]).all())
    scales = [max(*map(abs, one["farther_interval"]), abs(one["b_farther_from_real"]), 1e-12) for _, one in rows]
    values = [one["b_farther_from_real"] / scale for (_, one), scale in zip(rows, scales, strict=True)]
    intervals = [
        [bound / scale for bound in one["farther_interval"]] for (_, one), scale in zip(rows, scales, strict=True)
    ]
    colours = [{"A": "#0072b2", "B": SYNTHETIC}.get(one["closer_to_real"], REAL) for _, one in rows]
    figure = _intervals([title for title, _ in rows], values, intervals, colours)
    figure.axes[0].set_xlabel(
        "B is nearer to real  <-   (each line scaled by itself)   ->  A is nearer to real", fontsize=8
    )
    _save(figure, path)

"""Figures: Dice box plots, Bland-Altman of the ejection fraction, overlays of cases, curves of a sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from cycles import Cycle
from dataset_description import Description, camus
from output_files import new_file
from rows import Row, column, structures_in

matplotlib.use("Agg")  # files only: works without a display
import matplotlib.pyplot as plt

# Told apart by the colour-blind too (Okabe & Ito 2008): of lines, and of classes beyond those described.
COLOURS = np.array([(230, 159, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167)])
DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: image, predicted and reference labels, (height, width) uint8 each."""

    title: str
    image: np.ndarray
    labels: np.ndarray
    reference: np.ndarray
    aspect: float = 1.0
    """Height of a pixel over its width."""


def class_colours(description: Description | None = None) -> np.ndarray:
    """RGB of each label, uint8 [256, 3]."""
    own = (description or camus()).colours
    table = np.array([COLOURS[(value - 1) % len(COLOURS)] for value in range(256)], np.uint8)
    table[: len(own)] = own
    return table


def structure_colour(structure: str, place: int, description: Description) -> np.ndarray:
    """RGB, each 0 .. 1, of a structure; `place`, from 1 up, chooses that of one which is not described."""
    if structure not in description.structures:
        return COLOURS[(place - 1) % len(COLOURS)] / 255
    own = description.structures[structure].colour
    return np.array(own or description.colours[description.plain_labels(structure)[-1]]) / 255


def edges_of(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour (of four) outside of it; the border of the image counts as outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray | None = None,
    alpha: float = 0.35,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """Grey image (height, width) uint8 -> RGB uint8: classes of `labels` as tints, outlines of `reference` in white.

    `colours` are those of `class_colours`, without them CAMUS'.
    """
    colours = class_colours() if colours is None else colours
    rgb = np.repeat(image[..., None], 3, axis=-1).astype(float)
    for value in np.unique(labels[labels > 0]):
        inside = labels == value
        rgb[inside] = (1 - alpha) * rgb[inside] + alpha * colours[value]
    if reference is not None:
        for value in np.unique(reference[reference > 0]):
            rgb[edges_of(reference == value)] = 255
    return rgb.round().astype(np.uint8)


def pick_cases(rows: Sequence[Row], count: int) -> list[int]:
    """Indices of `count` cases, from best to worst mean Dice, evenly spread in rank; the median is among them."""
    dice = np.array([column(rows, s, "dice") for s in structures_in(rows)])
    defined = np.isfinite(dice)
    score = np.where(defined, dice, 0).sum(0) / np.maximum(defined.sum(0), 1)
    ranks = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    if len(ranks) > 2:
        ranks[len(ranks) // 2] = len(rows) // 2
    return np.argsort(-score, kind="stable")[ranks].tolist()


def dice_boxes(path: Path, rows: Sequence[Row], description: Description) -> None:
    """A box per structure (quartiles, whiskers to 1.5 times their distance), with every case as a dot."""
    structures = structures_in(rows)
    values = [column(rows, s, "dice") for s in structures]
    values = [v[np.isfinite(v)] for v in values]
    figure, axes = plt.subplots(figsize=(1.5 + 1.5 * len(structures), 4), layout="constrained")
    for position, (structure, dice) in enumerate(zip(structures, values, strict=True), start=1):
        colour = structure_colour(structure, position, description)
        spread = np.random.default_rng(0).uniform(-0.12, 0.12, len(dice))
        axes.plot(position + spread, dice, ".", color=colour, alpha=0.5, markersize=4, zorder=1)
        axes.boxplot(dice, positions=[position], widths=0.5, showfliers=False, medianprops={"color": "black"}, zorder=2)
        mean = f"\nmean {dice.mean():.3f}" if dice.size else "\nabsent"
        title = description.title(structure)
        axes.annotate(title[:1].upper() + title[1:] + mean, (position, -0.03), (0, 0), ("data", "axes fraction"),
                      "offset points", ha="center", va="top", parse_math=False)  # fmt: skip
    axes.set_xticks([])
    axes.set_xlim(0.4, len(structures) + 0.6)
    axes.set_ylabel("Dice")
    axes.set_title(f"{len(rows)} cases")
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def bland_altman(path: Path, predicted: np.ndarray, reference: np.ndarray, statistics: dict[str, float]) -> None:
    """Difference of the ejection fractions (%) over their mean, with bias and limits of agreement."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.axhline(0, color="0.8", linewidth=1)
    axes.plot((predicted + reference) / 2, predicted - reference, "o", color=COLOURS[1] / 255, markersize=4)
    lines = {"bias": ("bias", "-"), "lower": ("- 1.96 SD", "--"), "upper": ("+ 1.96 SD", "--")}
    for name, (text, style) in lines.items():
        if np.isfinite(statistics[name]):
            axes.axhline(statistics[name], color="black", linestyle=style, linewidth=1)
            place = {"xy": (1.01, statistics[name]), "xycoords": ("axes fraction", "data")}
            axes.annotate(f"{text}\n{statistics[name]:+.1f}", **place, va="center", fontsize=8)
    axes.set_xlabel("Mean of predicted and reference ejection fraction (%)")
    axes.set_ylabel("Predicted - reference (%)")
    axes.set_title(f"Ejection fraction, {statistics['n']} patients, r = {statistics['correlation']:.2f}")
    _save(figure, path)


def overlay_sheet(path: Path, panels: Sequence[Panel], colours: np.ndarray, columns: int = 4) -> None:
    """Panels side by side: prediction tinted, reference outlined in white."""
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    figure, grid = plt.subplots(rows, columns, figsize=(3 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, panel in zip(grid.flat, panels, strict=False):
        picture = overlay(panel.image, panel.labels, panel.reference, colours=colours)
        axes.imshow(picture, interpolation="nearest", aspect=panel.aspect)
        axes.set_title(panel.title, fontsize=8, parse_math=False)
    figure.suptitle("tint: prediction, white: reference", fontsize=9)
    _save(figure, path)


def cycle_curves(path: Path, cycle: Cycle) -> None:
    """The cavity's area in each view, with its ED and ES frames, and from both views the volume, over a sequence."""
    both = np.isfinite(cycle.ejection_fraction)
    size = {"figsize": (6, 3 + 2.5 * both), "layout": "constrained"}
    figure, grid = plt.subplots(1 + both, sharex=True, squeeze=False, **size)
    for colour, view, beside in zip(COLOURS / 255, cycle.views, (-14, 6), strict=False):  # points, of the phase's name
        areas = cycle.areas_cm2(view)
        percent = np.linspace(0, 100, len(areas))
        grid[0, 0].plot(percent, areas, ".-", color=colour, label=view)
        for phase, frames in (("ED", cycle.ed), ("ES", cycle.es)):
            if view in frames:
                at = percent[frames[view]], areas[frames[view]]
                grid[0, 0].plot(*at, "o", color=colour)
                grid[0, 0].annotate(phase, at, (0, beside), textcoords="offset points", ha="center", fontsize=8)
    grid[0, 0].set_ylabel("Cavity area (cm²)")
    grid[0, 0].legend(
        title="view, frames of ED and ES marked", ncols=2, loc="lower center", fontsize=8, title_fontsize=8
    )
    if both:
        volumes = [cycle.volume_ml(frames) for frames in cycle.times()]
        grid[1, 0].plot(np.linspace(0, 100, len(volumes)), volumes, ".-", color=COLOURS[2] / 255)
        for name, value in (("EDV", cycle.edv_ml), ("ESV", cycle.esv_ml)):
            grid[1, 0].axhline(value, color="black", linestyle="--", linewidth=1)
            place = {"xy": (1.01, value), "xycoords": ("axes fraction", "data")}
            grid[1, 0].annotate(f"{name}\n{value:.0f} ml", **place, va="center", fontsize=8)
        grid[1, 0].set_ylabel("Volume (ml)")
    for axes in grid[:, 0]:
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    grid[-1, 0].set_xlabel("Part of the sequence (%)")
    figure.suptitle(
        cycle.patient + (f", ejection fraction {cycle.ejection_fraction:.0f} %" if both else ""), fontsize=10
    )
    _save(figure, path)


def _save(figure, path: Path) -> None:
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH)
    plt.close(figure)

"""The page that a demo, or a replication, ends with: one file that needs nothing else, neither files nor a network."""

import base64
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from report import STRUCTURES, name_of, read_dice

HERE = Path(__file__).resolve().parent
PHANTOMS = "PHANTOMS.txt"  # as make_phantom_camus.py, and then the extraction, mark their folders
PAIR = {"real", "synthetic", "difference", "yardstick"}  # keys of a number in evaluation.json
Curve = tuple[str, list[float], list[float]]  # label, x, y


def write_page(folder: Path) -> Path:
    """Write report.html of what lies in `folder`, and return its path. What is not there has no section."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("report.html.j2").render(contents(folder))
    temporary = folder / ".report.tmp.html"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / "report.html")
    return folder / "report.html"


def contents(folder: Path) -> dict[str, Any]:
    """What the template asks for."""
    runs = sorted((path.parent for path in folder.glob("segmentation*/summary.json")), key=_synthetic_first)
    table = folder / "table.txt"
    if several_seeds := len(runs) > 2:  # then the table tells of all, and one of each kind is drawn
        runs = [run for run in runs if run.name.rpartition("_")[2] == runs[0].name.rpartition("_")[2]]
    dice_figures = [run / "figures" / "dice.png" for run in runs]
    return {
        "phantoms": any(folder.glob(f"views/*/{PHANTOMS}")) or any(folder.glob(f"camus/*/{PHANTOMS}")),
        "picture": picture(folder / "picture.png"),
        "nearest": picture(folder / "nearest.png"),
        "images": sum(len(read_rows(path)) for path in folder.glob("results/**/manifest.csv")),
        "table": table.read_text(encoding="utf-8") if several_seeds and table.exists() else None,
        "runs": [name_of(run) for run in runs],
        "dice": [] if several_seeds else list(dice_rows(runs)),
        "dice_figures": [(name_of(p.parents[1]), picture(p)) for p in dice_figures if p.exists()],
        "curves": [(title, draw(curves, *axes)) for title, curves, *axes in training_curves(folder, runs) if curves],
        "evaluations": list(evaluations(folder)),
        "commands": commands(folder),
    }


def _synthetic_first(run: Path) -> tuple[bool, str]:
    return "synthetic" not in run.name, run.name


def picture(path: Path) -> str | None:
    return data_uri(path.read_bytes()) if path.exists() else None


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if it is not there."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def dice_rows(runs: Sequence[Path]) -> Iterator[tuple[str, int, list[str]]]:
    """(structure, frames, "mean +/- std" of each run)."""
    found = [read_dice(run) for run in runs]
    for key, title in STRUCTURES.items() if runs else ():
        yield title, found[0][key]["n"], [f"{dice[key]['mean']:.3f} ± {dice[key]['std']:.3f}" for dice in found]


def training_curves(folder: Path, runs: Sequence[Path]) -> Iterator[tuple[str, list[Curve], str, str, bool]]:
    """(title, curves, label of x, label of y, whether y is logarithmic) of each figure."""
    diffusion: list[Curve] = []
    for path in sorted(folder.glob("**/progress.csv")):
        rows, name = read_rows(path), path.parent.name
        diffusion += curve(rows, "step", "mse", f"{name}, training")
        diffusion += curve(rows, "step", "val_mse", f"{name}, averaged weights on validation")
    yield "Semantic diffusion model", diffusion, "step", "squared error of the prediction", True
    segmentation: list[Curve] = []
    for run in runs:
        rows = read_rows(run / "log.csv")
        segmentation += curve(rows, "epoch", "dice_mean", f"{name_of(run)}, training")
        segmentation += curve(rows, "epoch", "val_dice_mean", f"{name_of(run)}, validation")
    yield "Segmentation", segmentation, "epoch", "mean Dice", False


def curve(rows: Sequence[dict[str, str]], x: str, y: str, label: str) -> list[Curve]:
    """One curve of the rows that have both values, or none."""
    points = [(float(row[x]), float(row[y])) for row in rows if row.get(x) and row.get(y)]
    return [(label, *map(list, zip(*points, strict=True)))] if points else []


def draw(curves: Sequence[Curve], x: str, y: str, logarithmic: bool) -> str:
    """The curves in one pair of axes, as a data URI."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, xs, ys in curves:
        axes.plot(xs, ys, marker="o" if len(xs) < 20 else None, markersize=3, label=label)
    axes.set(xlabel=x, ylabel=y, yscale="log" if logarithmic else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return data_uri(file.getvalue())


def evaluations(folder: Path) -> Iterator[dict[str, Any]]:
    """Of every evaluation.json where it lies, its numbers in pairs, all others, and its figures."""
    for path in sorted(folder.glob("**/evaluation.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        figures = [picture(path.parent / "figures" / f"{name}.png") for name in ("differences", "power_spectrum")]
        yield {
            "where": str(path.parent.relative_to(folder)),
            "pairs": list(pairs(entry)),
            "others": list(others(entry)),
            "figures": [figure for figure in figures if figure],
        }


def pairs(value: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str], bool]]:
    """Of each number of real and synthetic frames its name, PAIR's values as words, and whether it counts as a
    difference (docs/evaluation.md).
    """
    if not isinstance(value, dict):
        return
    if value.keys() >= PAIR:
        name = " ".join(way).replace("_", " ") + (f", {value['unit']}" if value.get("unit") else "")
        cells = [word(value[key]) for key in ("real", "synthetic", "difference", "yardstick")]
        yield name, cells, bool(value.get("outside"))
        return
    for key, inner in value.items():
        yield from pairs(inner, (*way, key))


def others(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The other numbers and words in nested JSON objects, each named by the way to it; lists are left out."""
    if isinstance(value, dict):
        for key, inner in value.items() if not value.keys() >= PAIR else ():
            yield from others(inner, f"{name}, {key}" if name else key)
    elif not isinstance(value, list) and value is not None:
        yield name, word(value)


def word(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def commands(folder: Path) -> list[str]:
    """The commands that made all this, as steps.sh noted them, in their order."""
    notes = [path for path in folder.glob(".done/*") if path.name != "times" and not path.suffix]
    texts = [path.read_text(encoding="utf-8") for path in sorted(notes, key=lambda path: path.stat().st_mtime_ns)]
    return [text.partition("\n")[0] for text in texts]

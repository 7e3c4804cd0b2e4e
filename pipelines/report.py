"""What the demo needs beside the commands: epochs that make two trainings comparable, and the report it ends with.

python pipelines/report.py epochs DATA OTHER_DATA EPOCHS   epochs on OTHER_DATA with as many updates as EPOCHS on DATA
python pipelines/report.py table RUN OTHER_RUN             Dice per structure of two evaluated segmentation runs
python pipelines/report.py page FOLDER                     FOLDER/report.html, of what a finished demo left in FOLDER
python pipelines/report.py evaluation FOLDER               in short what image_evaluate.py wrote there
"""

import json
import sys
from errno import ENOENT
from pathlib import Path
from typing import Any

STRUCTURES = {"lv_endo": "LV endocardium", "lv_epi": "LV epicardium", "la": "left atrium"}


def training_frames(data: str) -> int:
    return sum(1 for _ in Path(data, "images", "training").glob("*.png"))


def epochs(data: str, other: str, count: str) -> str:
    if not training_frames(other):
        raise FileNotFoundError(ENOENT, "no frames to train on", other)
    return str(max(1, round(int(count) * training_frames(data) / training_frames(other))))


def name_of(run: Path) -> str:
    """What a segmentation was trained on."""
    return run.name.removeprefix("segmentation_")


def read_dice(run: Path) -> dict[str, dict[str, Any]]:
    """Of each structure mean, std and n (frames) of its Dice on the test split."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {key: summary["overall"][key]["dice"] for key in STRUCTURES}


def table(*runs: str) -> str:
    """Mean Dice and standard deviation over the test frames, a row per structure and a column per run."""
    summaries = [read_dice(Path(run)) for run in runs]
    lines = ["Dice on test frames    " + "  ".join(f"trained on {name_of(Path(run)):<10}" for run in runs)]
    for key, title in STRUCTURES.items():
        dice = [summary[key] for summary in summaries]
        cells = "  ".join(f"{one['mean']:.3f} +/- {one['std']:.3f}     " for one in dice)
        lines.append(f"{title:<23}{cells} ({dice[0]['n']} frames)")
    return "\n".join(lines)


def page(folder: str) -> str:
    from page import write_page  # slow: matplotlib

    return f"report, to be opened in a browser:         {write_page(Path(folder))}"


def evaluation(folder: str) -> str:
    """How the synthetic frames compare with the real ones: contrast, speckle, and whether any is a copy."""
    entry = json.loads(Path(folder, "evaluation.json").read_text())
    contrast = entry["contrast"]["lv_cavity against lv_myocardium"]["gcnr"]
    speckle = entry["speckle"]["lv_myocardium"]["nakagami_m"]
    told = [
        f"{name} {rounded(one['synthetic'])} (real {rounded(one['real'])}, halves of the real differ by "
        f"{rounded(one['yardstick'])})"
        for name, one in (("gCNR", contrast), ("Nakagami m of the wall", speckle))
    ]
    copies = f"{entry['memorisation']['copies']} of {entry['images']['synthetic']} are copies of training frames"
    return "\n".join([f"Synthetic frames: {', '.join(told)}; {copies}", apart(entry), *agreement(entry)])


def rounded(value: float | None, digits: int = 2) -> str:
    """A number of the evaluation, which says null where it is not defined."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def apart(entry: dict[str, Any]) -> str:
    """How many of the differences are outside the yardstick (docs/evaluation.md), and the largest by it."""
    sections = ("grey_levels", "contrast", "speckle", "autocorrelation", "power_spectrum")
    differences = {
        f"{key} ({row})".replace("_", " "): one
        for section in sections
        for row, keys in entry[section].items()
        for key, one in keys.items()
        if one["difference"] is not None and one["yardstick"] is not None  # else it was not judged
    }
    outside = {name: abs(one["difference"]) / one["yardstick"] if one["yardstick"] else 0
               for name, one in differences.items() if one["outside"]}  # fmt: skip
    largest = sorted(outside, key=outside.get, reverse=True)[:3]
    told = f"{len(outside)} of {len(differences)} differences are larger than between halves of the real patients"
    return told + (f", above all {', '.join(largest)}" if largest else "")


def agreement(entry: dict[str, Any]) -> list[str]:
    """Whether frames show their labels, where that was asked."""
    sides = entry["label_agreement"] or {}
    means = {side: [one["dice"] for one in found.values() if isinstance(one, dict)]
             for side, found in sides.items() if found}  # fmt: skip
    told = [f"{' / '.join(rounded(value, 3) for value in dice)} in {side} frames" for side, dice in means.items()]
    return [f"Dice of what a network of real frames sees, by structure: {', '.join(told)}"] if told else []


if __name__ == "__main__":
    commands = {"epochs": (epochs, 3), "table": (table, 2), "evaluation": (evaluation, 1), "page": (page, 1)}
    function, count = commands.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0))
    if not function or len(sys.argv) != 2 + count or (function is epochs and not sys.argv[4].isdecimal()):
        told = ", ".join(f"{name} ({number} words)" for name, (_, number) in commands.items())
        sys.exit(print(f"error: one of {told}, and what it is about", file=sys.stderr) or 2)
    try:
        print(function(*sys.argv[2:]))
    except OSError as error:
        sys.exit(print(f"error: {error.strerror}: {error.filename}", file=sys.stderr) or 2)
    except (ValueError, KeyError) as error:  # JSON that is broken, or of something else
        where = " ".join(sys.argv[2:])
        sys.exit(print(f"error: {where}: not what this project writes there ({error!r})", file=sys.stderr) or 2)

"""What the demo needs beside the commands: epochs that make two trainings comparable, and the closing table.

python pipelines/report.py epochs DATA OTHER_DATA EPOCHS   epochs on OTHER_DATA with as many updates as EPOCHS on DATA
python pipelines/report.py table RUN OTHER_RUN             Dice per structure of two evaluated segmentation runs
"""

import json
import sys
from pathlib import Path

STRUCTURES = {"lv_endo": "LV endocardium", "lv_epi": "LV epicardium", "la": "left atrium"}


def training_frames(data: str) -> int:
    return sum(1 for _ in Path(data, "images", "training").glob("*.png"))


def epochs(data: str, other: str, count: str) -> str:
    return str(max(1, round(int(count) * training_frames(data) / training_frames(other))))


def table(*runs: str) -> str:
    """Mean Dice and standard deviation over the test frames, a row per structure and a column per run."""
    names = [Path(run).name.removeprefix("segmentation_") for run in runs]
    summaries = [json.loads(Path(run, "summary.json").read_text())["overall"] for run in runs]
    lines = ["Dice on test frames    " + "  ".join(f"trained on {name:<10}" for name in names)]
    for key, title in STRUCTURES.items():
        dice = [summary[key]["dice"] for summary in summaries]
        cells = "  ".join(f"{one['mean']:.3f} +/- {one['std']:.3f}     " for one in dice)
        lines.append(f"{title:<23}{cells} ({dice[0]['n']} frames)")
    return "\n".join(lines)


if __name__ == "__main__":
    print({"epochs": epochs, "table": table}[sys.argv[1]](*sys.argv[2:]))

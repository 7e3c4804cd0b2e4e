"""What the demo needs beside the commands: epochs that make two trainings comparable, and the closing table.

python pipelines/report.py epochs DATA OTHER_DATA EPOCHS   epochs on OTHER_DATA with as many updates as EPOCHS on DATA
python pipelines/report.py table RUN OTHER_RUN             Dice per structure of two evaluated segmentation runs
python pipelines/report.py evaluation FOLDER               one line of what image_evaluate.py wrote there
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


def evaluation(folder: str) -> str:
    """How the synthetic frames compare with the real ones: contrast, speckle, and whether any is a copy."""
    entry = json.loads(Path(folder, "evaluation.json").read_text())
    contrast = entry["contrast"]["lv_cavity against lv_myocardium"]["gcnr"]
    speckle = entry["speckle"]["lv_myocardium"]["nakagami_m"]
    told = [
        f"{name} {one['synthetic']:.2f} (real {one['real']:.2f}, halves of the real differ by {one['yardstick']:.2f})"
        for name, one in (("gCNR", contrast), ("Nakagami m of the wall", speckle))
    ]
    copies = f"{entry['memorisation']['copies']} of {entry['images']['synthetic']} are copies of training frames"
    return f"Synthetic frames: {', '.join(told)}; {copies}"


if __name__ == "__main__":
    print({"epochs": epochs, "table": table, "evaluation": evaluation}[sys.argv[1]](*sys.argv[2:]))

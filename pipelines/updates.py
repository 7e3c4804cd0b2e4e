"""Epochs that make a number of updates of the segmentation, whatever the number of its training images.

python pipelines/updates.py UPDATES BATCH DATA [EXTRA_DATA ...]
"""

import sys
from pathlib import Path


def training_frames(data: str | Path) -> int:
    return sum(1 for _ in Path(data, "images", "training").glob("*.png"))


def epochs(updates: int, batch: int, *data: str | Path) -> int:
    """As many as come nearest to `updates` of `batch` images (an epoch rounds up), and at least one."""
    frames = sum(map(training_frames, data))
    return max(1, round(updates / max(1, -(-frames // batch))))


if __name__ == "__main__":
    print(epochs(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))

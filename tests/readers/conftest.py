"""The readers of the three folders under one name each, and the tables that the suite prints."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # for reader_forms
TABLES: dict[str, dict[str, dict[str, str]]] = {}


@pytest.fixture(scope="session")
def image_readers() -> dict[str, Callable[[Path], np.ndarray]]:
    """Path -> pixels, by the commands that read so. The diffusion model works at a size of its own: 32 here."""
    import dataset
    import view_folders
    from config import Settings
    from guided_diffusion.data.arrays import load_image
    from guided_diffusion.data.datasets import Pair
    from recordings import Recording

    settings = Settings(img_size=32)
    return {
        "data_preparation": view_folders.read_image,
        "image_train, image_sample": lambda path: load_image(Pair("x", "training", str(path), ""), settings),
        "runner, test_model": dataset.read_image,
        "predict": lambda path: Recording(path, 1).read().frames[0],
    }


@pytest.fixture(scope="session")
def label_readers() -> dict[str, Callable[[Path], np.ndarray]]:
    """Likewise, of label maps."""
    import dataset
    import view_folders
    from config import Settings
    from guided_diffusion.data.arrays import load_label
    from guided_diffusion.data.datasets import Pair

    settings = Settings(img_size=32)
    return {
        "data_preparation": view_folders.read_label,
        "image_train, image_sample": lambda path: load_label(Pair("x", "training", None, str(path)), settings),
        "runner, test_model": dataset.read_annotation,
    }


@pytest.fixture(scope="session")
def table() -> Callable[[str, str, str, str], None]:
    """table(title, row, column, cell): a cell of one of the tables that the suite prints at its end."""

    def enter(title: str, row: str, column: str, cell: str) -> None:
        TABLES.setdefault(title, {}).setdefault(row, {})[column] = cell

    return enter


def as_markdown(rows: dict[str, dict[str, str]]) -> list[str]:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items()]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def pytest_terminal_summary(terminalreporter) -> None:
    for title, rows in TABLES.items():
        terminalreporter.write_line(f"\n{title}\n")
        for line in as_markdown(rows):
            terminalreporter.write_line(line)

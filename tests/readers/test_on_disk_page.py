"""docs/on_disk.md holds the tables of forms and readers as they are today."""

from collections.abc import Callable
from pathlib import Path

from reader_forms import image_forms, label_forms, label_map, outcome

from command import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "on_disk.md"


def as_lines(forms: dict[str, bytes], readers: dict[str, Callable], cell: Callable, folder: Path) -> list[str]:
    lines = [["", *readers], ["---"] * (1 + len(readers))]
    for form, data in forms.items():
        file = folder / f"x.{form.split(',')[0].lower()}"
        file.write_bytes(data)
        lines.append([form, *(cell(read, file) for read in readers.values())])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def label_cell(read: Callable, file: Path) -> str:
    return outcome(read, file, [label_map()])


def image_cell(read: Callable, file: Path) -> str:
    """What is read of images is compared with their pixels in test_pictures.py."""
    try:
        read(file)
    except UserError:
        return "refused"
    return "read"


def test_the_tables_are_those_of_today(label_readers, image_readers, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    tables = as_lines(label_forms(), label_readers, label_cell, tmp_path)
    tables += as_lines(image_forms(), image_readers, image_cell, tmp_path)
    assert not [line for line in tables if line not in page.splitlines()]
    assert "WRONG" not in page

"""The rooms of guided_diffusion: imports run downwards only, and each room's page names all that lies there."""

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2] / "semantic_diffusion_model" / "guided_diffusion"
# What each room may import beside itself. A room that is not named here has no place yet.
MAY_IMPORT = {
    "runs": set(),
    "process": set(),
    "network": {"process", "runs"},
    "data": {"network", "process", "runs"},
    "sampling": {"data", "network", "process", "runs"},
    "training": {"sampling", "data", "network", "process", "runs"},
    "evaluation": {"sampling", "data", "runs"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}


def imports_of(text: str) -> set[str]:
    """The modules of the house that `text` imports, wherever the statement stands: at the top, or within a function."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their room: from guided_diffusion.<room> ..."
            for alias in node.names:
                found |= {f"{node.module}.{alias.name}", str(node.module)} & MODULES.keys()
    return {name for name in found if name.count(".") == 2}


IMPORTS = {name: imports_of(path.read_text()) for name, path in MODULES.items()}


def test_every_module_stands_in_a_room_that_has_its_place():
    rooms = {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(MAY_IMPORT)
    assert [path.name for path in HOUSE.glob("*.py")] == ["__init__.py"]
    assert all(list((HOUSE / room).glob("*.py")) for room in rooms)


def test_no_room_imports_a_higher_one():
    wrong = [
        f"{name} -> {other}"
        for name, others in IMPORTS.items()
        for other in others
        if (room := name.split(".")[1]) != (theirs := other.split(".")[1]) and theirs not in MAY_IMPORT[room]
    ]
    assert not wrong
    assert sum(map(len, IMPORTS.values())) > 50  # the imports are found at all


def a_circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules of circles, and those that import them; empty if there is no circle."""
    left = {name: others & imports.keys() for name, others in imports.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_module_imports_itself_through_others():
    assert a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert not a_circle(IMPORTS)


def test_the_rooms_themselves_form_no_circle():
    assert not a_circle(MAY_IMPORT)


@pytest.mark.parametrize(
    "line",
    [
        "from guided_diffusion.training.loop import train",
        "from guided_diffusion.training import loop",
        "import guided_diffusion.training.loop",
        "def f():\n    from guided_diffusion.training import loop as l",
    ],
)
def test_an_import_is_found_however_it_is_written(line):
    assert imports_of(line) == {"guided_diffusion.training.loop"}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_s_page_names_each_of_its_modules_and_what_it_may_import(room):
    page = ast.get_docstring(ast.parse((HOUSE / room / "__init__.py").read_text()))
    listed = re.findall(r"^ {4}(\w+) {2,}\S", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (HOUSE / room).glob("*.py") if path.stem != "__init__")
    assert set(re.findall(r"`(\w+)`", page.split("\n\n")[0])) == MAY_IMPORT[room]

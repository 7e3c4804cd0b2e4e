"""docs/cli.md says what --help says."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import make_cli  # noqa: E402


def test_the_page_is_what_the_commands_say_today():
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run `make docs`"


def test_the_schema_is_that_of_today():
    assert make_cli.SCHEMA.read_text(encoding="utf-8") == make_cli.schema(), "run `make docs`"


def test_every_command_is_on_it():
    assert {"semantic_diffusion_model/image_train.py", "echo_segmentation/runner.py"} < set(make_cli.commands())

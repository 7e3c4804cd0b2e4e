"""Write docs/cli.md, what --help of every command says, and docs/dataset.schema.json (`make docs`). Tests hold both to
the code.

python docs/make_cli.py
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
SCHEMA = ROOT / "docs" / "dataset.schema.json"
FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")
COLUMNS = 110
INTRODUCTION = f"""# The commands and their flags

What `--help` says, folder by folder. `--img_size` and `--img-size` are the same flag. Yes and no are written `True` and
`False` (or yes/no, t/f, y/n, 1/0, in any case), and a flag without a word means True. A mistake ends in one line and
exit code 2. This page is written by `make docs` ({Path(__file__).name}); do not edit it by hand.
"""


def commands() -> list[str]:
    """The scripts of the three folders that are commands, as paths from the root."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return [str(path.relative_to(ROOT)) for path in paths if "__main__" in path.read_text()]


def help_of(command: str) -> str:
    environment = os.environ | {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, command, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    # One default is the number of cores here, which is another elsewhere.
    text = re.sub(r"(same time; 0 works in this one\. \(default: )\d+\)( +)│", _cores, done.stdout)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _cores(found: re.Match) -> str:
    return f"{found[1]}cores)".ljust(len(found[0]) - 1) + "│"


def page() -> str:
    """The whole page."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        texts = dict(zip(commands(), pool.map(help_of, commands()), strict=True))
    sections = [INTRODUCTION]
    for folder in FOLDERS:
        sections.append(f"## {folder}\n")
        for command, text in texts.items():
            if command.startswith(folder):
                sections.append(f"### {Path(command).name}\n\n```\n{text}\n```\n")
    return "\n".join(sections)


def schema() -> str:
    """The JSON schema of dataset.json."""
    sys.path.insert(0, str(ROOT / "data_preparation"))
    from dataset_schema import Form

    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Form.model_json_schema()}
    found["properties"]["$schema"] = {"type": "string"}
    return json.dumps(found, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(commands())} commands")

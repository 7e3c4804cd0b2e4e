"""The command line of training and sampling: every flag once, in its group; a mistake by its name; torch not needed."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import help_groups
from command import UserError, parse_settings
from config import Settings

FOLDER = Path(__file__).resolve().parents[2] / "semantic_diffusion_model"
GROUPS = {"image_train": help_groups.TRAINING_GROUPS, "image_sample": help_groups.SAMPLING_GROUPS}
NO_FLAG = "class_names"  # comes from dataset.json
RUN_WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        assert name != "torch", "imported before the command line was read"
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_torch(name: str, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", RUN_WITHOUT_TORCH, str(FOLDER / f"{name}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=FOLDER, env=environment())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(FOLDER), "COLUMNS": "110"}


@pytest.mark.parametrize("name", GROUPS)
def test_the_groups_hold_every_setting_once(name):
    grouped = [field.name for group, _ in GROUPS[name].values() for field in dataclasses.fields(group)]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(Settings))


@pytest.mark.parametrize("name", GROUPS)
def test_help_shows_groups_in_order_with_what_is_not_used_last(name):
    shown = run_without_torch(name, "--help")
    assert shown.returncode == 0, shown.stderr
    titles = re.findall(r"^╭─ (.*?) options ─", shown.stdout, flags=re.MULTILINE)
    assert titles == list(GROUPS[name])
    unused = [title.startswith("not used") for title in titles]
    assert any(unused) and unused == sorted(unused)
    places = [
        shown.stdout.index(f"│ --{field.name} ") for field in dataclasses.fields(Settings) if field.name != NO_FLAG
    ]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", GROUPS)
def test_the_example_keeps_its_lines(name):
    example = run_without_torch(name, "--help").stdout.split("Example:\n")[1].split("\n\n")[0]
    first, second = example.splitlines()
    assert first.startswith(f"    mpiexec -np 8 python3 ./{name}.py") and first.endswith(" \\")
    assert second.startswith("        --")


def test_a_flag_that_is_none_is_answered_with_the_nearest_alone():
    shown = run_without_torch("image_sample", "--nums_step", "3")
    assert shown.returncode == 2
    assert (
        shown.stderr == "error: there is no flag --nums_step: did you mean --num_steps? (--help lists all settings)\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bath-size-train=4"], "no flag --bath-size-train: did you mean --batch_size_train?"),
        (["--xyzzy", "4"], r"no flag --xyzzy \("),
        (["--lr", "fast"], "--lr"),
        (["--noise_schedule", "quadratic"], "quadratic"),
        (["--lr"], "--lr"),
        (["something"], "something"),
    ],
)
def test_mistakes_are_one_line(words, said):
    with pytest.raises(UserError, match=said) as error:
        parse_settings(Settings, words, groups=help_groups.TRAINING_GROUPS)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


def test_groups_change_nothing_but_help():
    words = [
        "--lr",
        "0.5",
        "--random-flip",
        "--use_fp16=no",
        "--num_steps",
        "20",
        "--img-size",
        "64",
        "--microbatch",
        "-1",
    ]
    grouped = parse_settings(Settings, words, groups=help_groups.SAMPLING_GROUPS)
    assert grouped == parse_settings(Settings, words)
    assert (grouped.lr, grouped.random_flip, grouped.use_fp16, grouped.img_size) == (0.5, True, False, 64)


def test_a_home_folder_is_found_after_an_equals_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    words = ["--datadir=~/data", "--savedir=a~b", "--results_dir", "~/out"]  # the last one is the shell's to expand
    settings = parse_settings(Settings, words)
    assert (settings.datadir, settings.savedir, settings.results_dir) == ("/somewhere/data", "a~b", "~/out")


@pytest.mark.parametrize("name", ["datadir", "savedir", "results_dir", "resume_checkpoint"])
def test_an_empty_word_is_no_path(name):
    """As of an unset variable of a shell: training would begin from random weights, without a word."""
    for words in ([f"--{name}", ""], [f"--{name}="]):
        with pytest.raises(UserError, match=f"^--{name}: expected is a path, and the word is empty"):
            parse_settings(Settings, words)
    assert parse_settings(Settings, ["--timestep_respacing", ""]).timestep_respacing == ""


def test_what_training_does_with_overwrite_is_not_listed_as_unused():
    fields = {
        title: {field.name for field in dataclasses.fields(group)}
        for title, (group, _) in GROUPS["image_train"].items()
    }
    assert [title for title, names in fields.items() if "overwrite" in names] == ["run"]

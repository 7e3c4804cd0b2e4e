"""The commands as programs: --help explains every setting, quickly; a mistake is one line."""

import dataclasses
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "data_preparation"
REQUIRED = {
    "make_phantom_camus": ["save_folder"],
    "extract_camus_data": ["camus_data_folder", "save_folder_path"],
    "augment_camus_labels": ["data_folder", "save_folder"],
    "prepare_inference4segmentation": ["testing_data_folder", "sdm_results_folder", "save_folder"],
    "export_nnunet": ["data_folder", "save_folder"],
}


@pytest.mark.parametrize("name", REQUIRED)
def test_help_explains_every_setting(name):
    module = importlib.import_module(name)
    settings = next(value for key, value in vars(module).items() if key.endswith("Settings"))
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, FOLDER / f"{name}.py", "--help"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert shown.returncode == 0 and seconds < 10, "imports must stay light (0.5 s on an idle machine)"
    assert module.__doc__.strip().split()[0] in shown.stdout
    text = " ".join(shown.stdout.replace("│", " ").split())
    for setting in dataclasses.fields(settings):
        after = text.split(f"--{setting.name} ")[1].split(" --")[0]
        assert len(after.split()) > 4, f"{setting.name} has no help"


@pytest.mark.parametrize("name", REQUIRED)
def test_required_settings_are_named(run, name):
    outcome = run(name)
    assert outcome.code == 2 and all(f"--{flag}" in outcome.err for flag in REQUIRED[name])

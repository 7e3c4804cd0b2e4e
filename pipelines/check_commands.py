"""Commands of this project, read and checked as each would do itself, without running any.

    python pipelines/check_commands.py FILE

FILE has a command a line, quoted as for a shell. Ends with 2 and a line for each that is wrong.
"""

import importlib
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
from command import UserError, parse_settings  # noqa: E402
from schema import check_settings  # noqa: E402

# Where each command has its settings.
SETTINGS = {
    "make_phantom_camus": ("make_phantom_camus", "PhantomSettings"),
    "extract_dataset": ("extract_dataset", "OwnSettings"),
    "export_nnunet": ("export_nnunet", "ExportSettings"),
    "extract_camus_data": ("extract_camus_data", "ExtractSettings"),
    "augment_camus_labels": ("augment_camus_labels", "AugmentSettings"),
    "prepare_inference4segmentation": ("prepare_inference4segmentation", "PrepareSettings"),
    "image_train": ("config", "Settings"),
    "image_sample": ("config", "Settings"),
    "image_average": ("image_average", "AverageSettings"),
    "image_evaluate": ("evaluation_settings", "EvaluationSettings"),
    "runner": ("settings", "TrainSettings"),
    "test_model": ("settings", "TestSettings"),
    "predict": ("settings", "PredictSettings"),
}
LOOK_AT_FILES = ("image_evaluate", "predict")  # their own check does, and nothing need be there yet


def check(line: str) -> None:
    """Raises UserError for a command that would refuse its flags."""
    words = shlex.split(line)
    place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if place is None or Path(words[place]).stem not in SETTINGS:
        raise UserError(f"not a command of this project: {line}")
    if not (ROOT / words[place]).is_file():
        raise UserError(f"{words[place]} is not there")
    name = Path(words[place]).stem
    module, settings_class = SETTINGS[name]
    settings = parse_settings(getattr(importlib.import_module(module), settings_class), words[place + 1 :])
    check_settings(settings)
    if name == "image_train":
        settings.ema_rates()
        settings.check_network()
        settings.check_attention()
    elif hasattr(settings, "check") and name not in LOOK_AT_FILES:
        settings.check()


def main(path: str) -> int:
    lines = Path(path).read_text().splitlines()
    wrong = 0
    for number, line in enumerate(lines, start=1):
        try:
            check(line)
        except UserError as error:
            wrong += 1
            print(f"error: command {number}, {line}: {error}", file=sys.stderr)
    if not wrong:
        print(f"{len(lines)} commands read and checked")
    return 2 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(print("error: one word, the file with the commands", file=sys.stderr) or 2)
    sys.exit(main(sys.argv[1]))

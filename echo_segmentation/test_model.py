"""Evaluate a segmentation network, or anybody's label maps, on real images as CAMUS does; or compare two such runs.

Written into --output-dir: metrics.csv, ejection_fraction.csv, summary.json, settings.json, camus_table.md and .csv,
figures/, predictions/ of a network, and with --native-dir predictions_native/, NIfTI files in the geometry of their
frames.
"""

import sys

from cases import check_data_dir, description_of, find_cases, with_quality
from command import UserError, run_command
from folder_lock import FolderLock
from progress import next_step
from recorded import SETTINGS
from results import OF_A_TRAINING, RESULT_FOLDERS, refuse_foreign_results
from settings import TestSettings, refuse_native


def main(settings: TestSettings) -> None:
    """Check all that is cheap to check, then import what is slow, then evaluate."""
    settings.check()
    if settings.compare is not None:
        from comparison import compare

        print("comparing {} with {}".format(*settings.compare))
        print(compare(*settings.compare))
        return
    check_data_dir(settings.data_dir)
    if settings.model_path is not None and not settings.model_path.is_file():
        raise UserError(f"--model-path {settings.model_path}: no such file")
    trained = [name for name in OF_A_TRAINING if (settings.output_dir / name).exists()]
    if trained:
        raise UserError(
            f"--output-dir {settings.output_dir}: holds a training ({', '.join(trained)}); give another one"
        )
    refuse_foreign_results(settings.output_dir, SETTINGS)
    refuse_native(settings.native_dir, description_of(settings.data_dir))
    cases = with_quality(find_cases(settings.data_dir, settings.split), settings.image_quality)
    what = settings.predictions or settings.model_path
    print(f"evaluating {what} on {len(cases)} {settings.split} images of {settings.data_dir}", flush=True)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with FolderLock(settings.output_dir) as lock:
        lock.sweep(*RESULT_FOLDERS)
        from testing import WRITTEN, evaluate_checkpoint, evaluate_predictions  # slow: torch, MONAI and others

        (evaluate_predictions if settings.predictions else evaluate_checkpoint)(settings, cases)
    print(f"written into {settings.output_dir}: {WRITTEN}")
    print(next_step("echo_segmentation/test_model.py", "--compare", settings.output_dir, "OTHER_RUN"))


if __name__ == "__main__":
    sys.exit(run_command(main, TestSettings, description=__doc__))

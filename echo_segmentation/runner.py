"""Train a segmentation network, on synthetic images say, and evaluate the best one on the test split.

Written into --output-dir: model.pth (best validation Dice), last.pth (to resume: run the same command again), log.csv,
logs/ (TensorBoard), settings.json, and of the test split what test_model.py writes: metrics.csv, camus_table.md,
summary.json, predictions/ and figures/ among others.
"""

import sys
from dataclasses import replace

from cases import SPLITS, check_data_dir, description_of, find_cases
from command import UserError, run_command
from dataset import load_cases
from extra_data import find_extra, refuse_people_in_two_splits
from folder_lock import FolderLock
from frames import choose_frames
from results import OF_A_TRAINING, RESULT_FOLDERS, refuse_foreign_results, refuse_foreign_training
from settings import TrainSettings, agreed_classes, refuse_native


def main(settings: TrainSettings) -> None:
    """Check all that is cheap to check, then import what is slow, then train and evaluate."""
    settings.check()
    check_data_dir(settings.data_dir)
    there = {path.name for path in settings.output_dir.glob("*")}
    if settings.model_path is not None and "last.pth" not in there and not settings.model_path.is_file():
        raise UserError(f"--model-path {settings.model_path}: no such file")
    refuse_foreign_results(settings.output_dir)
    if "summary.json" in there and not there & {*OF_A_TRAINING}:
        raise UserError(f"--output-dir {settings.output_dir}: holds an evaluation, and no training; give another one")
    refuse_foreign_training(settings.output_dir)
    cases = {split: find_cases(settings.data_dir, split, optional=split == "testing") for split in SPLITS}
    refuse_people_in_two_splits(settings.data_dir, cases)
    own = len(cases["training"])
    cases["training"] += find_extra(settings.extra_data_dir, settings.data_dir, cases, settings.oversample)
    counts = ", ".join(f"{len(found)} {split}" for split, found in cases.items())
    blocks = f" of {settings.epoch_updates} updates" if settings.epoch_updates else ""
    print(f"training for {settings.epochs} epochs{blocks} on {settings.data_dir}: {counts} images", flush=True)
    if not cases["testing"]:
        print("no testing split: the trained network will not be evaluated")
    description = description_of(settings.data_dir)
    refuse_native(settings.native_dir, description)
    classes = agreed_classes(settings.num_classes, description, settings.data_dir)
    settings, size = replace(settings, num_classes=classes), settings.img_size
    sets = {s: load_cases(found, size, classes, settings.cache_gb) for s, found in cases.items() if found}
    sets["training"] = sets["training"].oversampled(own, settings.oversample)
    frames = None
    if "testing" in sets:
        if settings.test_shuffle:
            sets["testing"] = sets["testing"].shuffled(settings.seed)
        frames = choose_frames(settings.native_dir, sets["testing"], classes, settings.spacing_mm)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with FolderLock(settings.output_dir) as lock:
        lock.sweep(*RESULT_FOLDERS)
        from training import train_and_evaluate  # slow: torch, MONAI, segmentation-models-pytorch

        train_and_evaluate(settings, sets, frames, description)


if __name__ == "__main__":
    sys.exit(run_command(main, TrainSettings, description=__doc__))

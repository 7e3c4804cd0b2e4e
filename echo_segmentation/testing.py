"""A network, a checkpoint from a file, or label maps from a folder, evaluated on a split."""

from pathlib import Path
from typing import Any

import numpy as np

from cases import Case, description_of, find_cases
from checkpoint import Checkpoint, read_checkpoint, sha256_of
from command import UserError
from dataset import CaseSet, load_cases, read_image
from dataset_description import Description
from devices import choose_device, compile_for, memory_of
from evaluation import Report, evaluate
from frames import Frames, choose_frames
from inference import PUBLISHED_SIZE, Predicted, Predictor, load_network, predict
from loader import make_loader
from losses import make_loss, told_loss
from predictions import find_predictions, read_predictions
from settings import CommonSettings, TestSettings, agreed_classes

WRITTEN = "metrics.csv, summary.json and figures/ among others"


def evaluate_checkpoint(settings: TestSettings, cases: list[Case]) -> None:
    """Predict and evaluate; the network, its image size and normalisation are those of the checkpoint."""
    checkpoint, description = read_checkpoint(settings.model_path), description_of(settings.data_dir)
    classes, size = agree_on(settings, checkpoint)
    refuse_other_classes(settings, checkpoint, description)
    device = choose_device(settings.gpu)
    network = load_network(settings.model_path, checkpoint, size, device)
    mean, std = normalisation(settings, checkpoint, size, classes)
    case_set = load_in_order(cases, size, classes, settings)
    frames = choose_frames(settings.native_dir, case_set, classes, settings.spacing_mm)
    compiled = compile_for(device, network) if settings.compile_model else network
    origin = {"model": str(settings.model_path)} | selection(settings) | settings.inference_options()
    predictor = Predictor(compiled, mean, std, device, **settings.inference_options())
    loss = told_loss(checkpoint.description)
    recorded = settings.as_dict() | {"checkpoint_sha256": sha256_of(settings.model_path)}
    report = how_to_report(settings, description, recorded)
    with memory_of(settings):
        evaluate_network(predictor, case_set, frames, loss, classes, settings, origin, report)


def evaluate_network(
    predictor: Predictor,
    case_set: CaseSet,
    frames: Frames,
    loss: str,
    num_classes: int,
    settings: CommonSettings,
    origin: dict[str, Any],
    report: Report,
) -> Predicted:
    """Predict, and write the results into settings.output_dir; returns the predictions at network size. `loss` is its
    name."""
    loader = make_loader(case_set, settings.batch_size, predictor.device, settings.num_workers, settings.pin_memory)
    labels: list[np.ndarray] = []

    def on_the_grid_of_the_reference(index: int, probabilities: np.ndarray) -> None:
        labels.append(predictor.label_map(frames.from_network(index, probabilities)))

    predicted = predict(predictor, loader, make_loss(loss), each=on_the_grid_of_the_reference)
    origin |= {"mean": predictor.mean, "std": predictor.std, "loss": predicted.loss, "loss_name": loss}
    folder = Path(settings.output_dir)
    evaluate(frames, labels, num_classes, folder, origin, report, predicted.labels)
    return predicted


def evaluate_predictions(settings: TestSettings, cases: list[Case]) -> None:
    """Evaluate label maps of settings.predictions like those of a network."""
    description = description_of(settings.data_dir)
    classes = agreed_classes(settings.num_classes, description, settings.data_dir)
    size = settings.img_size or max(read_image(cases[0].image).shape)
    case_set = load_in_order(cases, size, classes, settings)
    files = find_predictions(settings.predictions, case_set.cases)
    frames = choose_frames(settings.native_dir, case_set, classes, settings.spacing_mm)
    labels = read_predictions(files, frames, classes)
    origin = {"predictions": str(settings.predictions)} | selection(settings)
    report = how_to_report(settings, description, settings.as_dict())
    evaluate(frames, labels, classes, settings.output_dir, origin, report)


def selection(settings: TestSettings) -> dict[str, Any]:
    """Which cases were evaluated, for summary.json; `image_quality` there are the groups."""
    return {"split": settings.split, "only_image_quality": list(settings.image_quality)}


def load_in_order(cases: list[Case], size: int, num_classes: int, settings: TestSettings) -> CaseSet:
    """The cases, decoded, by name or shuffled if that is asked for."""
    case_set = load_cases(cases, size, num_classes, settings.cache_gb)
    return case_set.shuffled(settings.seed) if settings.test_shuffle else case_set


def how_to_report(settings: CommonSettings, description: Description, recorded: dict[str, Any] | None = None) -> Report:
    """`recorded` is written as settings.json; a training has done it."""
    of_report = settings.test_viz_num, settings.bootstrap, settings.seed, settings.missed_distance
    return Report(*of_report, description, recorded)


def refuse_other_classes(settings: TestSettings, checkpoint: Checkpoint, description: Description) -> None:
    """Raises UserError unless the network was trained for the classes that the data have. A published one was for
    CAMUS."""
    theirs = checkpoint.dataset.class_names
    if description.class_names != theirs:
        raise UserError(
            f"{settings.model_path} was trained for other classes than {settings.data_dir} has: {', '.join(theirs)}, "
            f"not {', '.join(description.class_names)}"
        )


def agree_on(settings: TestSettings, checkpoint: Checkpoint) -> tuple[int, int]:
    """Number of classes and image size. Raises UserError for a number of classes that is not the checkpoint's."""
    classes = checkpoint.architecture.num_classes
    if settings.num_classes not in (None, classes):
        raise UserError(f"--num-classes {settings.num_classes}: {settings.model_path} has {classes}")
    return classes, settings.img_size or checkpoint.description.get("img_size", PUBLISHED_SIZE)


def normalisation(settings: TestSettings, checkpoint: Checkpoint, size: int, classes: int) -> tuple[float, float]:
    """Mean and standard deviation of the grey values (0 to 1), and a line on the console that says where from."""
    if settings.mean is not None:
        mean, std, source = settings.mean, settings.std, "--mean and --std"
    elif "mean" in checkpoint.description:
        mean, std, source = checkpoint.description["mean"], checkpoint.description["std"], str(settings.model_path)
    else:
        try:
            training = find_cases(settings.data_dir, "training")
        except UserError as error:
            told = f"{settings.model_path} carries no mean and std: give --mean and --std, or training images"
            raise UserError(told, [str(error)]) from None
        mean, std = load_cases(training, size, classes, cache_gb=0).mean_std()
        source = f"the training split of {settings.data_dir}"
    print(f"mean {mean:.4f} and std {std:.4f} of grey values from {source}")
    return mean, std

"""A checkpoint from a file, judged on a split."""

import torch
from torch import nn

from cases import Case, find_cases
from checkpoint import Checkpoint, load_weights, read_checkpoint
from command import UserError
from dataset import load_cases
from evaluation import judge
from inference import Predictor, choose_device, predict
from loader import make_loader
from model import build_network, check_size
from settings import TestSettings

PUBLISHED_SIZE = 256


def judge_checkpoint(settings: TestSettings, cases: list[Case]) -> None:
    """Predict and judge; the network, its image size and normalisation are those of the checkpoint."""
    checkpoint = read_checkpoint(settings.model_path)
    classes, size = agree_on(settings, checkpoint)
    device = choose_device(settings.gpu)
    network = build_network(checkpoint.architecture)
    check_size(network, checkpoint.architecture, size)
    load_weights(network, checkpoint, settings.model_path)
    mean, std = normalisation(settings, checkpoint, size, classes)
    case_set = load_cases(cases, size, classes, settings.cache_gb)
    case_set = case_set.shuffled(settings.seed) if settings.test_shuffle else case_set
    network.to(device, memory_format=torch.channels_last)
    compiled = torch.compile(network) if settings.compile_model and device.type == "cuda" else network
    loader = make_loader(case_set, settings.batch_size, device, settings.num_workers, settings.pin_memory)
    predicted = predict(Predictor(compiled, mean, std, device), loader, nn.functional.cross_entropy)
    origin = {"model": str(settings.model_path), "split": settings.split, "mean": mean, "std": std}
    origin["loss"] = predicted.loss
    options = {"overlays": settings.test_viz_num, "bootstrap": settings.bootstrap, "seed": settings.seed}
    judge(case_set, predicted.labels, classes, settings.output_dir, origin, **options)


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

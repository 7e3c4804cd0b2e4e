"""The training loop. To resume, run the same command again: on a CPU it goes on exactly as if never interrupted.

Nothing random is carried from one epoch to the next: order and augmentation depend on (seed, pass over the cases,
index), and torch's generator is seeded by (seed, epoch). So `last.pth` holds weights, optimiser, epoch and log, and no
generator.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from checkpoint import load_weights, read_checkpoint, sha256_of
from command import UserError
from dataset import CaseSet
from dataset_description import Description
from devices import autocast, choose_device, compile_for, memory_of
from figures import class_colours, overlay
from frames import Frames
from inference import Predicted, Predictor, batches_of, load_network, normalise, predict
from loader import make_loader
from losses import Loss, make_loss
from metrics import dice_scores, structure_masks, structures_of
from model import Architecture, build_network, check_size
from output_files import EventFile
from progress import next_step, track
from recorded import write_settings
from results import LOG_COLUMNS
from run_state import LAST, Run
from settings import TrainSettings
from testing import WRITTEN, evaluate_network, how_to_report


def train_and_evaluate(
    settings: TrainSettings, sets: dict[str, CaseSet], frames: Frames | None, description: Description
) -> None:
    """Train on `sets` of training and validation, then evaluate the best network on testing, if it is there: on
    `frames`, which are those of the testing set.
    """
    device = choose_device(settings.gpu)
    run = start(settings, sets, device, description)
    write_settings(settings.output_dir, settings.as_dict())
    with memory_of(settings):
        train(run, sets["training"], sets["validation"], device)
        if "testing" in sets:
            evaluate_best(run, sets["testing"], frames, device)
    best, tested = run.progress.best_epoch, f", and of the test split {WRITTEN}" if "testing" in sets else ""
    print(f"written into {run.folder}: model.pth (epoch {best}, the best), last.pth, log.csv, logs/{tested}")
    images = "--input", "IMAGES", "--output-dir", "./output/predicted"
    print(next_step("echo_segmentation/predict.py", "--model-path", run.folder / "model.pth", *images))


def start(settings: TrainSettings, sets: dict[str, CaseSet], device: torch.device, description: Description) -> Run:
    """A new run with random weights or those of --model-path, or the one to be resumed."""
    is_unet = settings.model_name == "unet"
    unet = {"encoder_name": settings.encoder_name, "decoder_channels": settings.decoder_channels} if is_unet else {}
    architecture = Architecture(settings.model_name, settings.num_classes, **unet)
    torch.manual_seed(settings.seed)
    goes_on = (Path(settings.output_dir) / LAST).exists()
    replaced = settings.model_path is not None or goes_on
    network = build_network(architecture, "none" if replaced else settings.encoder_weights)
    check_size(network, architecture, settings.img_size)
    starts_from = None if goes_on else settings.model_path
    if starts_from is not None:
        checkpoint = read_checkpoint(starts_from)
        if checkpoint.architecture != architecture:
            raise UserError(f"{starts_from} is of {checkpoint.architecture}, asked for is {architecture}")
        load_weights(network, checkpoint, starts_from)
    run = Run(network.to(device, memory_format=torch.channels_last), architecture, settings, sets, description)
    run.start_sha256 = sha256_of(starts_from) if starts_from is not None else None
    run.resume()
    return run


def learning_rate(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at the last of `steps` (Loshchilov & Hutter 2017, eq. 5)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / max(steps - 1, 1))) / 2


def mean_dice(
    predicted: torch.Tensor, reference: torch.Tensor, num_classes: int, description: Description
) -> torch.Tensor:
    """Per case, the mean Dice over the structures present, of label maps (cases, height, width) -> (cases,)."""
    structures = structures_of(num_classes, description)
    return dice_scores(structure_masks(predicted, structures), structure_masks(reference, structures)).nanmean(1)


def train(run: Run, training: CaseSet, validation: CaseSet, device: torch.device) -> None:
    """Train to the end, or until patience ends; each epoch writes model.pth (if best), last.pth, log.csv and logs/."""
    settings, progress, loss = run.settings, run.progress, make_loss(run.settings.loss)
    common = (settings.batch_size, device, settings.num_workers, settings.pin_memory, settings.seed)
    drawn = {"shuffle": settings.train_shuffle, "augmented": settings.augment, "updates": settings.epoch_updates}
    batches = make_loader(training, *common, **drawn)
    held_out = make_loader(validation, *common)
    compiled = compile_for(device, run.network) if settings.compile_model else run.network
    writers = {s: EventFile(run.folder / "logs" / s, len(progress.log) + 1) for s in ("train", "val")}
    for epoch in range(len(progress.log) + 1, settings.epochs + 1):
        if settings.patience and epoch - 1 - progress.best_epoch >= settings.patience and progress.log:
            print(f"no better validation Dice since epoch {progress.best_epoch}: stopped")
            break
        row = {"epoch": epoch} | train_epoch(run, compiled, batches, epoch, loss, device)
        predicted = predict(Predictor(compiled, run.mean, run.std, device, settings.mixed_precision), held_out, loss)
        row |= {"val_loss": predicted.loss, "val_dice_mean": set_dice(predicted, settings.num_classes, run.description)}
        progress.log.append(dict.fromkeys(LOG_COLUMNS, "") | row)
        if row["val_dice_mean"] > progress.best_dice:
            progress.best_epoch, progress.best_dice = epoch, row["val_dice_mean"]
            run.save_best()
        # Before the state: an epoch told twice counts once in TensorBoard, one that was not told would never be there.
        log_epoch(writers, row, validation, predicted.labels, run)
        run.save_last()
    for writer in writers.values():
        writer.close()


def train_epoch(
    run: Run, network: nn.Module, batches, epoch: int, loss: Loss, device: torch.device
) -> dict[str, float]:
    """One epoch: the mean loss, and the mean Dice of those that show any structure."""
    settings, steps = run.settings, len(batches.batch_sampler)
    torch.manual_seed(int(np.random.SeedSequence((settings.seed, epoch)).generate_state(1)[0]))  # for dropout
    network.train()
    batches.batch_sampler.epoch = epoch
    totals, cases = torch.zeros(3, device=device), 0
    bar = track(batches_of(batches), f"epoch {epoch} of {settings.epochs}", steps, "batch", keep=False)
    for i, (images, labels) in enumerate(bar):
        step = (epoch - 1) * steps + i
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(step, settings.epochs * steps, settings.lr, settings.min_lr)
        labels = labels.to(device, non_blocking=True).long()
        with autocast(device, settings.mixed_precision):
            logits = network(normalise(images, run.mean, run.std, device))
            value = loss(logits, labels)
        run.optimizer.zero_grad(set_to_none=True)
        value.backward()
        run.optimizer.step()
        with torch.no_grad():  # summed on the device: reading a value here would stop it at each step
            dice = mean_dice(logits.argmax(1), labels, settings.num_classes, run.description)
            totals += torch.stack([value.detach().float() * len(images), dice.nansum(), dice.isfinite().sum()])
        cases += len(images)
    total_loss, dice, defined = totals.tolist()
    mean_loss = total_loss / cases
    if not math.isfinite(mean_loss):
        raise UserError(f"the loss is {mean_loss} in epoch {epoch}: try a smaller --lr (now {settings.lr})")
    return {"loss": mean_loss, "dice_mean": dice / max(defined, 1)}


def set_dice(predicted: Predicted, num_classes: int, description: Description) -> float:
    """Mean over the cases of their mean Dice; 0 if no case shows any structure."""
    maps = (torch.from_numpy(labels) for labels in (predicted.labels, predicted.reference))
    dice = mean_dice(*maps, num_classes, description)
    return float(dice.nanmean().nan_to_num(0))


def log_epoch(writers: dict[str, EventFile], row: dict, validation: CaseSet, predictions, run: Run) -> None:
    """One line on the console, scalars of both splits, and the first few validation cases as overlays."""
    epoch = row["epoch"]
    for split, prefix in (("train", ""), ("val", "val_")):
        writers[split].add_scalar("loss", row[f"{prefix}loss"], epoch)
        writers[split].add_scalar("dice_mean", row[f"{prefix}dice_mean"], epoch)
    for index in range(min(run.settings.test_viz_num, len(validation))):
        image, reference = validation[index]
        picture = overlay(image, predictions[index], reference, colours=class_colours(run.description))
        writers["val"].add_image(validation.cases[index].stem, picture, epoch)
    values = "  ".join(f"{name} {row[name]:.4f}" for name in LOG_COLUMNS[1:5])
    print(f"epoch {epoch}: {values}", flush=True)


def evaluate_best(run: Run, testing: CaseSet, frames: Frames, device: torch.device) -> None:
    """Evaluate model.pth on the test split, and complete the last row of log.csv by its loss and Dice."""
    settings, last = run.settings, run.progress.log[-1]
    # Read: the run's own network, and last.pth, stay at the last epoch.
    checkpoint = read_checkpoint(run.folder / "model.pth")
    network = load_network(run.folder / "model.pth", checkpoint, settings.img_size, device)
    classes = settings.num_classes
    origin = {"model": str(run.folder / "model.pth"), "epoch": checkpoint.description["epoch"], "split": "testing"}
    predictor, report = Predictor(network, run.mean, run.std, device), how_to_report(settings, run.description)
    predicted = evaluate_network(predictor, testing, frames, settings.loss, classes, settings, origin, report)
    last |= {"test_loss": predicted.loss, "test_dice_mean": set_dice(predicted, classes, run.description)}
    run.save_last()
    with EventFile(run.folder / "logs" / "test", last["epoch"]) as writer:
        for name in ("loss", "dice_mean"):
            writer.add_scalar(name, last[f"test_{name}"], last["epoch"])

"""What a training is at any moment, and how it is written and read again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpoint import load_file, save_model
from command import UserError, whole_file
from dataset import CaseSet
from metrics import label_names
from model import Architecture
from rows import write_rows
from settings import FREE_TO_CHANGE, TrainSettings

LOG_COLUMNS = ("epoch", "loss", "dice_mean", "val_loss", "val_dice_mean", "test_loss", "test_dice_mean")


@dataclass
class Progress:
    """What a run has reached: `log` has a row of LOG_COLUMNS per epoch done."""

    log: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_dice: float = -1.0


class Run:
    """Network, optimiser and progress of one training in one folder, on `sets` of training and validation."""

    def __init__(
        self, network: nn.Module, architecture: Architecture, settings: TrainSettings, sets: dict[str, CaseSet]
    ):
        self.network, self.architecture, self.settings = network, architecture, settings
        self.mean, self.std = sets["training"].mean_std()
        self.data = {split: sets[split].digest for split in ("training", "validation")}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr)
        self.progress = Progress()
        self.folder = Path(settings.output_dir)

    def describe(self) -> dict[str, Any]:
        """What model.pth says of itself, beside the architecture."""
        return {
            "mean": self.mean,
            "std": self.std,
            "img_size": self.settings.img_size,
            "labels": label_names(self.settings.num_classes),
            "epoch": self.progress.best_epoch,
            "val_dice_mean": self.progress.best_dice,
            "settings": self.settings.as_dict(),
        }

    def save_best(self) -> None:
        save_model(self.folder / "model.pth", self.network, self.architecture, self.describe())

    def save_last(self) -> None:
        """Last of all that an epoch writes: whatever was interrupted before it, is done again, alike."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "data": self.data,
            "settings": self.settings.as_dict(),
        }
        write_rows(self.folder / "log.csv", self.progress.log)
        with whole_file(self.folder / "last.pth") as temporary:
            torch.save(state, temporary)

    def resume(self) -> None:
        """Continue from last.pth, if there is one. Raises UserError if it was made with other settings or data."""
        path = self.folder / "last.pth"
        if not path.exists():
            return
        state = load_file(path)
        if not isinstance(state, dict) or not {"network", "optimizer", "progress", "data", "settings"} <= set(state):
            raise UserError(f"{path}: not the state of a training; give another --output-dir")
        refuse_changes(path, state, self.settings, self.data)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        print(f"going on after epoch {len(self.progress.log)} of {path}")


def refuse_changes(path: Path, state: dict[str, Any], settings: TrainSettings, data: dict[str, str]) -> None:
    """Raises UserError, naming each setting that differs from the run in the folder.

    The number of epochs is one of them: the learning rate falls over the whole run, which would be another run.
    """
    new, old = settings.as_dict(), state["settings"]
    names = [n for n in new if n not in FREE_TO_CHANGE and new[n] != old.get(n)]
    differ = [f"--{n.replace('_', '-')}: {old.get(n)} there, {new[n]} now" for n in names]
    others = [split for split in data if data[split] != state["data"].get(split)]
    differ += [f"--data-dir: other images or labels of {split} than there" for split in others]
    if differ:
        raise UserError(
            f"{path} is of a run with other settings; give another --output-dir, or the same again:", differ
        )

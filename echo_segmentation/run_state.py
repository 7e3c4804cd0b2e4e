"""What a training is at any moment, and how it is written and read again."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval, Len
from torch import nn

from checkpoint import Checkpoint, load_file, read_checkpoint, save_model, sha256_of
from command import UserError
from dataset import CaseSet
from dataset_description import Description, camus, parse_description
from input_files import read_if_there
from metrics import label_names
from model import Architecture
from output_files import new_file, save_tensors
from rows import write_rows
from schema import Record, checked, shown
from settings import FREE_TO_CHANGE, TrainSettings
from state_dicts import checked_weights, is_dense, load_weights

LAST = "last.pth"
CAMUS = "CAMUS"
LATER = ("epoch_updates", "oversample")  # settings that the first runs have not: they went by the default


@dataclass
class Progress:
    """What a run has reached: `log` has a row of results.LOG_COLUMNS per epoch done."""

    log: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_dice: float = -1.0


class LoggedEpoch(Record):
    """A row of results.LOG_COLUMNS; the last one of a finished run has the test's too."""

    epoch: Annotated[int, Interval(ge=1)]
    loss: float
    dice_mean: float
    val_loss: float
    val_dice_mean: float
    test_loss: float | Literal[""] = ""
    test_dice_mean: float | Literal[""] = ""


class SavedProgress(Record):
    """As `Progress`."""

    log: Annotated[list[LoggedEpoch], Len(min_length=1)]
    best_epoch: Annotated[int, Interval(ge=0)]
    best_dice: float


class Moments(Record):
    """Adam's of one parameter."""

    step: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


class SavedAdam(Record):
    state: dict[int, Moments]


class SavedState(Record):
    """What stands in last.pth."""

    network: dict[str, torch.Tensor]
    optimizer: SavedAdam
    progress: SavedProgress
    data: dict[str, str]
    settings: dict[str, Any]
    start_sha256: str | None = None
    dataset: str = ""
    """The dataset.json of the data, or CAMUS; empty of a run from before it was kept."""


class Run:
    """Network, optimiser and progress of one training in one folder, on `sets` of training and validation."""

    def __init__(
        self,
        network: nn.Module,
        architecture: Architecture,
        settings: TrainSettings,
        sets: dict[str, CaseSet],
        description: Description | None = None,
    ):
        self.description = description or camus()
        self.network, self.architecture, self.settings = network, architecture, settings
        self.mean, self.std = sets["training"].mean_std()
        self.data = {split: sets[split].digest for split in ("training", "validation")}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, fused=True)
        self.progress = Progress()
        self.folder = Path(settings.output_dir)
        self.start_sha256: str | None = None
        """Of the weights of --model-path that the run began with; None also of a run from before it was kept."""

    @property
    def dataset(self) -> str | None:
        """The dataset.json of the data, if they are not CAMUS."""
        return None if self.description == camus() else self.description.as_json()

    def start(self) -> dict[str, str]:
        """What is kept of the weights of --model-path, if the run began with any."""
        return {} if self.start_sha256 is None else {"start_sha256": self.start_sha256}

    def describe(self) -> dict[str, Any]:
        """What model.pth says of itself, beside the architecture."""
        return {
            "mean": self.mean,
            "std": self.std,
            "img_size": self.settings.img_size,
            "labels": label_names(self.architecture.num_classes, self.description),
            "epoch": self.progress.best_epoch,
            "val_dice_mean": self.progress.best_dice,
            "settings": self.settings.as_dict(),
            "data": self.data,
            **self.start(),
            **({} if self.dataset is None else {"dataset": self.dataset}),
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
            "dataset": self.dataset or CAMUS,
            **self.start(),
        }
        write_rows(self.folder / "log.csv", self.progress.log)
        with new_file(self.folder / LAST) as temporary:
            save_tensors(state, temporary)

    def resume(self) -> None:
        """Continue from last.pth, if there is one: the weights of --model-path are then not needed any more.

        Raises UserError if it was made with other settings or data, or if it is missing although there is a model.pth.
        """
        path = self.folder / LAST
        if not path.exists():
            self._refuse_to_replace(self.folder / "model.pth")
            return
        state = checked(SavedState, load_file(path), f"{path}: not the state of a training; give another --output-dir")
        refuse_changes(path, state, self.settings, self.data, self.description)
        self.start_sha256 = state.start_sha256
        load_weights(self.network, checked_weights(state.network, str(path)), str(path))
        check_moments(state.optimizer.state, [p.shape for p in self.network.parameters()], path)
        # Of the saved optimiser only what the steps have added: the learning rate is that of the settings.
        moments = {index: dict(of_one) for index, of_one in state.optimizer.state.items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for parameter, of_one in self.optimizer.state.items():  # the fused step reads them in the order of the weights
            for name in ("exp_avg", "exp_avg_sq"):
                of_one[name] = torch.empty_like(parameter).copy_(of_one[name])
        self.progress = Progress(**dict(state.progress) | {"log": [dict(row) for row in state.progress.log]})
        print(f"going on after epoch {len(self.progress.log)} of {path}")

    def _refuse_to_replace(self, path: Path) -> None:
        """Raises UserError for weights of another training; those of the first epoch of this one are made again."""
        if not path.exists():
            return
        with contextlib.suppress(UserError):
            if self._made_again(read_checkpoint(path)):
                return
        raise UserError(
            f"{path} is there without the last.pth of its training, and would be written over: move it away, or give "
            "another --output-dir"
        )

    def _made_again(self, there: Checkpoint) -> bool:
        """Whether these are weights of the first epoch of this run, in whose folder no second one has ended.

        Of weights from before they said of which data they are, nobody knows.
        """
        about, lines = there.description, (read_if_there(self.folder / "log.csv") or b"").splitlines()
        theirs = about.get("settings")
        if not isinstance(theirs, dict) or about.get("epoch") != 1 or len(lines) > 2:  # the header, and an epoch
            return False
        same_data = about.get("data") == self.data and there.dataset == self.description
        began = theirs.get("model_path"), about.get("start_sha256")
        same_start = not other_start(*began, self.settings.model_path)
        return same_data and same_start and not changed_settings(theirs, self.settings)


def check_moments(moments: dict[int, Moments], shapes: Sequence[torch.Size], path: Path) -> None:
    """Raises UserError unless `moments` are those of parameters of these shapes, in their order, and finite."""
    if not moments.keys() <= set(range(len(shapes))):  # a parameter that takes no part has none
        raise UserError(f"{path}: the optimiser is of other parameters than the {len(shapes)} of the network")
    for index, of_one in moments.items():
        for (name, array), shape in zip(of_one, (torch.Size(), shapes[index], shapes[index]), strict=True):
            if not is_dense(array) or array.shape != shape or not bool(array.isfinite().all()):
                raise UserError(f"{path}: {name} {index} of the optimiser is damaged, or of another network")


def changed_settings(old: dict[str, Any], settings: TrainSettings) -> list[str]:
    """Names of the settings that make another run of it; of --model-path see `other_start`."""
    new, old = settings.as_dict(), with_defaults(old)
    return [name for name in new if name not in (*FREE_TO_CHANGE, "model_path") and new[name] != old[name]]


def other_start(old: Any, sha256: str | None, new: Path | None) -> str:
    """What differs between the --model-path that a run began with and `new`; nothing if both are the same weights,
    wherever they lie. By the file's `sha256` where it is known and the file still there, otherwise by its name.
    """
    if old is None and new is None:
        return ""
    was = "None" if old is None else Path(str(old)).name
    if old is not None and new is not None:
        if sha256 is not None and new.is_file():
            return "" if sha256_of(new) == sha256 else f"--model-path: {new} has other weights than {shown(was)} had"
        if new.name == was:
            return ""
    return f"--model-path: {shown(was)} there, {new} now"


def with_defaults(old: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the defaults of those that came LATER; None for others that are missing."""
    usual = TrainSettings(data_dir="").as_dict()
    return dict.fromkeys(usual) | {name: usual[name] for name in LATER} | old


def refuse_changes(
    path: Path, state: SavedState, settings: TrainSettings, data: dict[str, str], description: Description
) -> None:
    """Raises UserError, naming each setting that differs from the run in the folder, and what differs in the data.

    The number of epochs is one of them: the learning rate falls over the whole run, which would be another run.
    """
    new, old = settings.as_dict(), with_defaults(state.settings)
    differ = [
        f"--{name.replace('_', '-')}: {shown(old[name])} there, {new[name]} now"
        for name in changed_settings(old, settings)
    ]
    if start := other_start(old["model_path"], state.start_sha256, settings.model_path):
        differ.append(start)
    others = [split for split in data if data[split] != state.data.get(split)]
    flags = dict.fromkeys(data, "--data-dir")
    if settings.extra_data_dir or old["extra_data_dir"]:
        flags["training"] = "--data-dir or --extra-data-dir"
    differ += [f"{flags[split]}: other images or labels of {split} than there" for split in others]
    if state.dataset:
        then = camus() if state.dataset == CAMUS else parse_description(state.dataset.encode(), f"{path}, dataset")
        others = [key for key in Description.model_fields if getattr(then, key) != getattr(description, key)]
        differ += [f"--data-dir: its dataset.json has other {', '.join(others)} than there"] if others else []
    if differ:
        raise UserError(
            f"{path} is of a run with other settings; give another --output-dir, or the same again:", differ
        )

"""The log of a training: console, log.txt, progress.csv and TensorBoard, written by rank 0 alone."""

import contextlib
import csv
import io
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from command import UserError
from guided_diffusion.runs import storage
from output_files import EventFile, new_file, telling
from progress import Progress
from schema import parse_csv

# The published columns, then ours. The last ones depend on the machine; all others only on the settings and the data.
FIRST_COLUMNS = ("step", "samples", "lr", "lr_anneal_steps", "param_norm", "lg_loss_scale")
OUR_COLUMNS = ("skipped_steps", "val_loss", "val_mse", "val_vb", "val_x_start_mse")
MACHINE_COLUMNS = ("samples_per_second", "data_wait_seconds", "data_wait_share", "memory_gb", "tflops")
LOG_FILES = ("progress.csv", "log.txt")
SHOWN = ("loss", "mse", "vb", "grad_norm", "lr", "samples_per_second", "data_wait_share", "val_loss", "val_x_start_mse")


class RunLog:
    """Rows of numbers and lines of text about a run in `savedir`. Use as a context manager.

    A run that was interrupted goes on in the same files; rows after `step`, from where it goes on, are dropped. Where
    it begins at step 0, or not from a checkpoint of this folder (`goes_on`), rows that are there are kept under another
    name. With a savedir on object storage, which cannot append, the files are kept in a local folder and uploaded by
    `publish`.
    """

    def __init__(self, savedir: str, step: int, steps: int, statistics_columns: Sequence[str], goes_on: bool = True):
        self.savedir = savedir
        self.mirror = Path(tempfile.mkdtemp()) if storage.is_remote(savedir) else None
        self.folder = self.mirror or Path(savedir)
        self.columns = [*FIRST_COLUMNS, *statistics_columns, *OUR_COLUMNS, *MACHINE_COLUMNS]
        self._fetch()
        kept = None if goes_on and step else self._set_aside()
        self._steps_before = self._drop_rows_after(step)
        self._progress = Progress("training", steps or None, "step", start=step)
        self._board = None
        self._first_step = step + 1
        if kept:
            self.say(f"the rows of an earlier training, which this one does not go on from, are kept in {kept}")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._progress.close()
        if self._board is not None:
            self._board.close()
        with contextlib.suppress(*([UserError] if kind else [])):  # the error that ends the block is the one to tell
            self.publish()
        if self.mirror:
            shutil.rmtree(self.mirror, ignore_errors=True)

    def say(self, text: str) -> None:
        """A line for the reader, on the console and in log.txt."""
        self._progress.say(text)
        append(self.folder / "log.txt", text + "\n")

    def advance(self) -> None:
        self._progress.advance()

    def has_row(self, step: int) -> bool:
        """Whether there was a row of `step` when this run began."""
        return step in self._steps_before

    def row(self, values: Mapping[str, float]) -> None:
        """Write a row: columns without a value stay empty."""
        path = self.folder / "progress.csv"
        line = io.StringIO()
        writer = csv.DictWriter(line, self.columns, lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerow({name: _number(values[name]) for name in self.columns if name in values})
        append(path, line.getvalue())
        step = int(values["step"])
        for name in self.columns[1:]:
            if name in values:
                self.board.add_scalar(name, values[name], step)
        shown = ", ".join(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)
        self.say(f"step {step}: {shown}")

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture [H, W, 3] uint8 for TensorBoard."""
        self.board.add_image(name, picture, step)

    def publish(self) -> None:
        """Upload the log files, where savedir is not local."""
        if not self.mirror:
            return
        for path in self.mirror.iterdir():
            storage.upload(path, storage.join(self.savedir, path.name))

    @property
    def board(self):
        if self._board is None:
            self._board = EventFile(self.folder, self._first_step)
        return self._board

    def _fetch(self) -> None:
        """Bring the files of an interrupted run from object storage."""
        for name in LOG_FILES if self.mirror else ():
            path = storage.join(self.savedir, name)
            if storage.exists(path):
                with storage.open_for_reading(path) as file:
                    (self.folder / name).write_bytes(file.read())

    def _set_aside(self) -> str | None:
        """Keep rows that are there under a name that is free; return it."""
        path = self.folder / "progress.csv"
        if not path.exists():
            return None
        with storage.open_for_reading(str(path)) as file:
            if not parse_csv(file.read(), str(path), torn=True):
                return None
        numbered = (f"progress_{number}.csv" for number in itertools.count(1))
        name = next(name for name in numbered if not storage.exists(storage.join(self.savedir, name)))
        with telling(path):
            path.rename(self.folder / name)
        if self.mirror:
            storage.upload(self.folder / name, storage.join(self.savedir, name))
        return name

    def _drop_rows_after(self, step: int) -> set[float]:
        """The steps of the rows that stay."""
        path = self.folder / "progress.csv"
        if not path.exists():
            return set()
        with storage.open_for_reading(str(path)) as file:
            rows = [row for row in parse_csv(file.read(), str(path), torn=True) if _is_row_until(row, step)]
        with new_file(path) as temporary, open(temporary, "w") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        return {float(row["step"]) for row in rows}


class SilentLog:
    """What ranks other than 0 have in place of a RunLog."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def advance(self) -> None:
        pass

    def has_row(self, step: int) -> bool:
        return True

    def row(self, values: Mapping[str, float]) -> None:
        pass

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        pass

    def publish(self) -> None:
        pass


def append(path: Path, text: str) -> None:
    """Raises UserError where `text` cannot be added to the file; a pipe would wait for a reader."""
    with telling(path):
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file")
        with open(path, "a") as file:
            file.write(text)


def _is_row_until(row: Mapping[str, str | None], step: int) -> bool:
    """Whether a row is whole (not cut short by a crash) and belongs to `step` or an earlier one."""
    try:
        return row[MACHINE_COLUMNS[-1]] is not None and float(row["step"] or "") <= step
    except (ValueError, KeyError):
        return False


def _number(value: float) -> str:
    """Whole numbers plainly, others with enough digits to be read back as the same float64."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))

"""Writing results where a disk may be full or a folder gone: what is in the way is told in one line, with the file.

This small file stands, the same, in semantic_diffusion_model and echo_segmentation.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from command import UserError, whole_file


@contextlib.contextmanager
def telling(path: str | os.PathLike) -> Iterator[None]:
    """Whatever the system has against writing `path` within the block is the user's to mend: it becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """As `whole_file`: a temporary path beside `path`, which takes its name at the end. Raises UserError."""
    with telling(path), whole_file(path) as temporary:
        yield temporary


class _Noting:
    """A file for torch.save, which tells that a write failed, but not why."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data: bytes) -> int:
        return self._do(self.file.write, data)

    def flush(self) -> None:
        self._do(self.file.flush)

    def _do(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            self.error = error
            raise


def save_tensors(content: Any, path: Path) -> None:
    """torch.save to `path`. Raises OSError where the file cannot be written."""
    import torch  # slow to import

    with open(path, "wb") as file:  # given a path, torch.save would put its name into the file
        noting = _Noting(file)
        try:
            torch.save(content, noting)
        except RuntimeError:
            if noting.error is None:
                raise
            raise noting.error from None


class EventFile:
    """Scalars and pictures for TensorBoard, in a new file of `folder`, written when they are told.

    PyTorch's own writer does it in a thread, whose errors come later and as a traceback. With `first_step`, what an
    interrupted run had told of this step and later ones is to be forgotten. Raises UserError.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int | None = None):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # slow to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = Path(folder, name)
        with telling(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "wb")  # noqa: SIM115 (closed by close)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if first_step is not None:
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(step=step, summary=scalar(name, value))

    def add_image(self, name: str, picture: Any, step: int) -> None:
        """A picture [H, W, 3] uint8."""
        from torch.utils.tensorboard.summary import image

        self._write(step=step, summary=image(name, picture, dataformats="HWC"))

    def _write(self, **content: Any) -> None:
        with telling(self.path):
            self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # all that was written was flushed, or told
            self._file.close()

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

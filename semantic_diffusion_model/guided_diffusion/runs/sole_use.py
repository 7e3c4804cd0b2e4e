"""One run at a time in savedir or results_dir, local or on object storage."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command import UserError
from folder_lock import BEAT_SECONDS, LOCK, FolderLock, gives_a_sign, in_use, is_dead, is_here, this_process
from guided_diffusion.runs import storage
from guided_diffusion.runs.world import World

SETTLING_SECONDS = 2.0


class ObjectLock:
    """As FolderLock, on object storage, with a weaker promise: two runs that start within SETTLING_SECONDS of one
    another are told apart by who wrote last; a writer that is slower than that is not noticed.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.path = storage.join(folder, LOCK)
        self.text = json.dumps(this_process())
        self._released = threading.Event()

    def take(self) -> "ObjectLock":
        """Raises UserError if another run holds the folder."""
        self._refuse_the_living()
        self._write()
        time.sleep(SETTLING_SECONDS)
        if self._read() != self.text:
            self._refuse_the_living()
        threading.Thread(target=self._beat, daemon=True, name="lock").start()
        return self

    def release(self) -> None:
        self._released.set()
        if self._read() == self.text:
            storage.remove(self.path)

    def _refuse_the_living(self) -> None:
        holder = self._holder()
        if self._is_left_by_the_dead():
            return
        text = in_use(self.folder, holder, self.path)
        if is_here(holder) or gives_a_sign(text, lambda: storage.modified(self.path), self._is_left_by_the_dead):
            raise UserError(text)

    def _holder(self) -> dict[str, Any]:
        """The holder of a lock; nothing of none, or one that is damaged."""
        try:
            return dict(json.loads(self._read() or "{}"))
        except (ValueError, TypeError):
            return {}

    def _is_left_by_the_dead(self) -> bool:
        """Whether nobody alive has a lock here."""
        return not storage.exists(self.path) or is_dead(self._holder(), time.time() - storage.modified(self.path))

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the network is back at the next beat, or the lock is given up
                if self._read() == self.text:
                    self._write()

    def _write(self) -> None:
        storage.write_whole(self.path, lambda temporary: Path(temporary).write_text(self.text))

    def _read(self) -> str | None:
        if not storage.exists(self.path):
            return None
        with storage.open_for_reading(self.path) as file:
            return file.read().decode(errors="replace")


@contextlib.contextmanager
def sole_use(folder: str, what: str, world: World, subfolders: tuple[str, ...] = ()) -> Iterator[None]:
    """Within the block no other run works in `folder` (the setting `what`), which is made if it is not there.

    What killed runs left unfinished in it, and in its `subfolders`, is swept. Raises UserError, on all ranks, if
    another run holds it or it cannot be written to.
    """
    lock = world.fail_together(_take, folder, what, subfolders) if world.is_main else world.fail_together(_nothing)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _nothing() -> None:
    """What ranks other than 0 do while it takes the lock."""


def _take(folder: str, what: str, subfolders: tuple[str, ...]) -> FolderLock | ObjectLock:
    if storage.is_remote(folder):
        storage.make_folder(folder)
        return ObjectLock(folder).take()
    try:
        storage.make_folder(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{what} {folder} is not writable")
        lock = FolderLock(folder).take()
        swept = lock.sweep(*subfolders)
    except OSError as error:
        raise UserError(f"cannot write to {what} {folder}: {error.strerror or error}") from None
    if swept:
        print(f"removed {swept} unfinished files of a killed run from {folder}")
    return lock

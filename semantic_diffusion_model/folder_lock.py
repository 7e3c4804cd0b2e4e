"""One run at a time in an output folder: a lock that names its holder, and what a dead holder left is swept.

This small file stands in each of the three script folders, which do not import one another.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from command import UserError

LOCK = ".lock"
BEAT_SECONDS = 30.0
SILENT_SECONDS = 300.0  # after which a holder on another host is taken for dead
LOOKING_SECONDS = 1.0  # between two looks at its lock
WRITING_SECONDS = 5.0  # after which a lock that is empty still has been left so by a kill: its text follows at once
TEMPORARY = re.compile(r"\.[a-z0-9_]{8}\.tmp(\.\w+)*")  # as `whole_file`, and tempfile with this suffix, name them


class FolderLock:
    """Held from `take` to `release`, or within a `with` block. `name`: of the lock file in `folder`, which must exist.

    A holder on this machine is dead when its process is: a killed run keeps nobody out. One on another host is taken
    for dead when the file, which a holder touches every BEAT_SECONDS, is older than SILENT_SECONDS by the clock of the
    file system; until it is, or is touched, a run that wants the folder waits: a job that a cluster starts again on
    another node finds the lock of the node that failed.
    """

    def __init__(self, folder: str | os.PathLike, name: str = LOCK):
        self.folder = Path(folder)
        self.path = self.folder / name
        self.text = json.dumps(this_process())
        self._released = threading.Event()

    def take(self) -> "FolderLock":
        """Raises UserError if another run holds the folder, for one on another host after it has given a sign."""
        while True:
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                self._remove_if_dead()
                continue
            with open(handle, "w") as file:
                file.write(self.text)
            if self._is_ours():  # not if it took so long that another run called it empty
                break
        threading.Thread(target=self._beat, daemon=True, name="lock").start()
        return self

    def release(self) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()

    def __enter__(self) -> "FolderLock":
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    def is_left_by_the_dead(self) -> bool:
        """Whether there is a lock whose holder is dead."""
        try:
            with open(self.path, errors="replace") as file:
                return self._is_dead(file)
        except FileNotFoundError:
            return False

    def sweep(self, *folders: str) -> int:
        """Delete the temporaries of runs that were killed, in the folder itself and in `folders` of it; how many.

        Call it while the lock is held: then no living run writes here. Raises ValueError for a name that leads out of
        the folder.
        """
        for name in map(Path, folders):
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{name} is no name of a folder in {self.folder}")
        count = 0
        for name in ("", *folders):
            for entry in os.scandir(self.folder / name) if (self.folder / name).is_dir() else ():
                if TEMPORARY.fullmatch(entry.name):
                    is_folder = entry.is_dir(follow_symlinks=False)
                    shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)
                    count += 1
        return count

    def _remove_if_dead(self) -> None:
        try:
            with open(self.path, errors="replace") as file:
                # Of several runs that find the same dead holder one removes its lock, the others look again. Where
                # the file system has no such locks, they would have to do so within microseconds of one another.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                if self._is_dead(file):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                        os.unlink(self.path)
                    return
                file.seek(0)
                holder = _parse(file.read())
            text = in_use(str(self.folder), holder, str(self.path))
            if is_here(holder) or gives_a_sign(text, lambda: os.stat(self.path).st_mtime, self.is_left_by_the_dead):
                raise UserError(text)
        except FileNotFoundError:
            pass

    def _is_dead(self, file: TextIO) -> bool:
        for _ in range(int(10 * WRITING_SECONDS)):
            if os.fstat(file.fileno()).st_size:
                break
            time.sleep(0.1)
        else:
            return True
        holder = _parse(file.read())
        # Only of one elsewhere is the clock asked: it takes a temporary, which a kill at that moment would leave.
        return is_dead(holder, 0.0 if is_here(holder) else self._silence())

    def _silence(self) -> float:
        """Seconds since the lock was touched."""
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", suffix=".tmp") as now:
            return os.stat(now.name).st_mtime - os.stat(self.path).st_mtime

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                if self._is_ours():
                    os.utime(self.path)

    def _is_ours(self) -> bool:
        try:
            return self.path.read_text(errors="replace") == self.text
        except FileNotFoundError:  # a folder that is gone needs no lock
            return False


def this_process() -> dict[str, Any]:
    """What tells this process from every other, here and elsewhere, at any time."""
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "nonce": os.urandom(4).hex(),  # one process may hold a folder twice, one time after the other
    }


def machine() -> str:
    """This start of this machine, and the name space that process numbers count in: containers have their own."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")


def start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None if there is none, or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # fields 3 and 22 of proc(5)


def is_here(holder: dict[str, Any]) -> bool:
    """Whether the process that `holder` describes counts on this machine."""
    return holder.get("machine") == machine()


def gives_a_sign(text: str, touched: Callable[[], float], is_left: Callable[[], bool]) -> bool:
    """Wait for a holder elsewhere: whether its lock is touched before it counts for nothing. `text` tells of it."""
    before = touched()
    print(f"{text}; waiting for a sign of it", file=sys.stderr, flush=True)
    while not is_left():
        if touched() != before:
            return True
        time.sleep(LOOKING_SECONDS)
    return False


def is_dead(holder: dict[str, Any], silence: float) -> bool:
    """Whether the process that `holder` describes is dead; `silence`: seconds since it last gave a sign of life."""
    if is_here(holder):
        pid = holder.get("pid")
        return not isinstance(pid, int) or start_of(pid) != holder.get("started")
    return silence > SILENT_SECONDS


def in_use(folder: str, holder: dict[str, Any], lock: str) -> str:
    """One line on the run that holds `folder`."""
    who = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"
    text = f"{folder} is in use by another run ({who}): wait for its end, or choose another folder"
    if not is_here(holder):
        text += f"; if it is gone, {lock} counts for nothing {SILENT_SECONDS / 60:g} minutes after its last sign"
    return text


def _parse(text: str) -> dict[str, Any]:
    """The holder of a lock; nothing of one that is just being written, or damaged, which only its age tells about."""
    try:
        holder = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}

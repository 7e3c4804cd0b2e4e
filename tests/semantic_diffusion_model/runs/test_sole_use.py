"""One run at a time in a folder on object storage: blobfile does on a disk here what it does on gs:// and az://."""

import json
import os
import threading
import time

import pytest

from command import UserError
from folder_lock import LOCK, SILENT_SECONDS, this_process
from guided_diffusion.runs import sole_use
from guided_diffusion.runs.world import World


@pytest.fixture(autouse=True)
def remote(monkeypatch):
    monkeypatch.setattr("guided_diffusion.runs.storage.is_remote", lambda path: True)
    monkeypatch.setattr(sole_use, "SETTLING_SECONDS", 0.2)


def test_a_second_run_is_refused_and_the_lock_goes_with_the_first(tmp_path):
    folder = tmp_path / "run"
    with sole_use.sole_use(str(folder), "savedir", World()):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match="in use by another run"):
            sole_use.ObjectLock(str(folder)).take()
    assert not (folder / LOCK).exists()


@pytest.mark.parametrize(("age", "free"), [(1, False), (SILENT_SECONDS - 1, True), (SILENT_SECONDS + 30, True)])
def test_a_holder_elsewhere_counts_for_as_long_as_it_gives_signs_of_life(tmp_path, monkeypatch, age, free):
    monkeypatch.setattr("folder_lock.LOOKING_SECONDS", 0.02)
    (tmp_path / LOCK).write_text(json.dumps(this_process() | {"machine": "another", "host": "node7"}))
    os.utime(tmp_path / LOCK, (time.time() - age,) * 2)
    if free:
        sole_use.ObjectLock(str(tmp_path)).take().release()
    else:
        sign = threading.Timer(0.3, lambda: os.utime(tmp_path / LOCK))
        sign.start()
        with pytest.raises(UserError, match="on node7"):
            sole_use.ObjectLock(str(tmp_path)).take()
        sign.join()


def test_of_two_that_wrote_at_once_the_last_holds_it(tmp_path, monkeypatch):
    first, other = sole_use.ObjectLock(str(tmp_path)), this_process() | {"host": "node7", "nonce": "another"}
    sleep = time.sleep

    def overtaken(seconds: float) -> None:
        (tmp_path / LOCK).write_text(json.dumps(other))
        sleep(seconds)

    monkeypatch.setattr(sole_use.time, "sleep", overtaken)
    with pytest.raises(UserError, match="on node7"):
        first.take()
    assert json.loads((tmp_path / LOCK).read_text()) == other


def test_a_lock_is_written_anew_as_a_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(sole_use, "BEAT_SECONDS", 0.05)
    lock = sole_use.ObjectLock(str(tmp_path)).take()
    os.utime(tmp_path / LOCK, (1, 1))
    end = time.monotonic() + 30
    while (tmp_path / LOCK).stat().st_mtime < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / LOCK).stat().st_mtime > 2
    lock.release()

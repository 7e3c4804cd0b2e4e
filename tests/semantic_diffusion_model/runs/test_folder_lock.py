"""Who holds a folder, who is dead, and what of theirs is swept."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

import folder_lock
from command import UserError, whole_file
from folder_lock import LOCK, SILENT_SECONDS, FolderLock, is_dead, machine, start_of, this_process


def test_a_second_run_is_refused_by_the_name_of_the_first(tmp_path):
    with FolderLock(tmp_path):
        with pytest.raises(UserError, match=f"in use by another run .process {os.getpid()} on ") as caught:
            FolderLock(tmp_path).take()
        assert "\n" not in str(caught.value)
        FolderLock(tmp_path, ".other.lock").take().release()
    assert not list(tmp_path.iterdir())
    with FolderLock(tmp_path):
        pass


def left_by(tmp_path, **changes) -> None:
    (tmp_path / LOCK).write_text(json.dumps(this_process() | changes))


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_that_has_ended_holds_nothing(tmp_path, ended):
    left_by(tmp_path, pid=ended)
    assert FolderLock(tmp_path).is_left_by_the_dead()
    FolderLock(tmp_path).take().release()


def test_of_a_holder_on_this_machine_nothing_is_written_that_a_kill_could_leave(tmp_path, ended, monkeypatch):
    monkeypatch.setattr("tempfile.NamedTemporaryFile", None)
    with FolderLock(tmp_path), pytest.raises(UserError, match="in use"):
        FolderLock(tmp_path).take()
    left_by(tmp_path, pid=ended)
    FolderLock(tmp_path).take().release()


def test_another_process_of_the_same_number_is_not_taken_for_the_holder(tmp_path):
    left_by(tmp_path, started=1)  # this process is alive, and did not start then
    FolderLock(tmp_path).take().release()


def test_a_process_that_nobody_has_collected_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    end = time.monotonic() + 60
    while start_of(process.pid) is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert start_of(process.pid) is None and os.path.exists(f"/proc/{process.pid}")
    process.wait()


@pytest.fixture
def soon(monkeypatch):
    """Looks at a lock that follow one another closely."""
    monkeypatch.setattr(folder_lock, "LOOKING_SECONDS", 0.02)


@pytest.fixture
def touched(tmp_path):
    """The lock gives a sign of life after half a second."""
    timer = threading.Timer(0.5, lambda: os.utime(tmp_path / LOCK))
    timer.start()
    yield
    timer.join()


@pytest.mark.parametrize("age", [1, SILENT_SECONDS - 30])
def test_a_holder_elsewhere_that_gives_a_sign_of_life_keeps_the_folder(tmp_path, ended, age, soon, touched):
    left_by(tmp_path, machine="another", host="node7", pid=ended)
    os.utime(tmp_path / LOCK, (time.time() - age,) * 2)
    with pytest.raises(UserError, match="on node7, .* counts for nothing 5 minutes after its last sign"):
        FolderLock(tmp_path).take()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


def test_a_holder_elsewhere_that_gives_none_is_waited_for_and_given_up(tmp_path, ended, soon, capsys):
    """As after a node has failed, and the job was started again on another."""
    left_by(tmp_path, machine="another", host="node7", pid=ended)
    os.utime(tmp_path / LOCK, (time.time() - SILENT_SECONDS + 1,) * 2)
    FolderLock(tmp_path).take().release()
    assert capsys.readouterr().err.count("waiting for a sign of it") == 1
    left_by(tmp_path, machine="another", host="node7", pid=ended)
    os.utime(tmp_path / LOCK, (time.time() - SILENT_SECONDS - 30,) * 2)
    FolderLock(tmp_path).take().release()
    assert not capsys.readouterr().err


def test_a_holder_elsewhere_that_ends_meanwhile_leaves_the_folder(tmp_path, soon):
    left_by(tmp_path, machine="another", host="node7")
    ends = threading.Timer(0.3, (tmp_path / LOCK).unlink)
    ends.start()
    FolderLock(tmp_path).take().release()
    ends.join()


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"pid": "x"}', "[" * 100_000])
def test_a_damaged_lock_counts_by_its_age_alone(tmp_path, text, soon, touched):
    (tmp_path / LOCK).write_text(text)
    os.utime(tmp_path / LOCK, (time.time() - 5,) * 2)
    with pytest.raises(UserError, match="in use"):
        FolderLock(tmp_path).take()
    os.utime(tmp_path / LOCK, (time.time() - SILENT_SECONDS - 30,) * 2)
    FolderLock(tmp_path).take().release()


def test_a_run_that_was_killed_before_its_lock_had_a_text_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "WRITING_SECONDS", 0.3)
    (tmp_path / LOCK).touch()
    assert FolderLock(tmp_path).is_left_by_the_dead()
    with FolderLock(tmp_path) as lock:
        assert (tmp_path / LOCK).read_text() == lock.text


def test_a_lock_that_is_just_being_written_is_waited_for(tmp_path):
    (tmp_path / LOCK).touch()
    writer = threading.Timer(0.5, left_by, [tmp_path])
    writer.start()
    with pytest.raises(UserError, match="in use"):
        FolderLock(tmp_path).take()
    writer.join()


def test_a_run_that_was_too_slow_to_write_its_lock_gives_way(tmp_path, monkeypatch):
    opened = os.open

    def slowly(path, *flags) -> int:
        handle = opened(path, *flags)
        monkeypatch.setattr(os, "open", opened)
        os.unlink(path)  # another run found it empty for long, and has the folder now
        left_by(tmp_path)
        return handle

    monkeypatch.setattr(os, "open", slowly)
    with pytest.raises(UserError, match="in use"):
        FolderLock(tmp_path).take()


def test_a_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    with FolderLock(tmp_path):
        os.utime(tmp_path / LOCK, (1, 1))
        end = time.monotonic() + 30
        while (tmp_path / LOCK).stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 30


def test_a_lock_that_another_run_has_taken_over_is_left_to_it(tmp_path):
    lock = FolderLock(tmp_path).take()
    left_by(tmp_path, machine="another")
    lock.release()
    assert (tmp_path / LOCK).exists()


def test_of_many_that_find_a_dead_holder_one_gets_the_folder(tmp_path, ended):
    for _ in range(20):
        left_by(tmp_path, pid=ended)
        ready, held, refused = threading.Barrier(8), [], []

        def compete(ready=ready, held=held, refused=refused) -> None:
            lock = FolderLock(tmp_path)
            ready.wait()
            try:
                held.append(lock.take())
            except UserError:
                refused.append(lock)

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)
        held[0].release()


def test_machines_are_told_apart_and_this_one_is_not_dead():
    assert machine() == machine() and len(machine()) > 36
    assert not is_dead(this_process(), 10 * SILENT_SECONDS)


@pytest.mark.parametrize("name", ["{outside}", "../outside", "samples/../../outside"])
def test_nothing_is_swept_outside_of_the_folder(tmp_path, name):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder / "samples", outside):
        path.mkdir(parents=True)
        (path / ".abcdefgh.tmp.png").write_text("half")
    with FolderLock(folder) as lock, pytest.raises(ValueError, match="no name of a folder in"):
        lock.sweep("samples", name.format(outside=outside))
    assert len(list(tmp_path.rglob(".abcdefgh.tmp.png"))) == 2


def test_temporaries_are_swept_and_nothing_else(tmp_path):
    (tmp_path / "samples").mkdir()
    names = {}
    for folder in (tmp_path, tmp_path / "samples"):
        with pytest.raises(KeyError), whole_file(folder / "model.pt") as temporary:
            names[folder] = temporary.name
            raise KeyError
        (folder / names[folder]).write_text("half")
        (folder / ".0123abc_.tmp").mkdir()
    kept = {".saving", ".notes.tmp", ".vimrc", "a.tmp.png", "abcdefgh.tmp", ".abcdefgh.tmp~"}
    for name in kept:
        (tmp_path / name).write_text("somebody's")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".abcdefgh.tmp.pt").write_text("of a folder that is not named")
    with FolderLock(tmp_path) as lock:
        assert lock.sweep("samples", "absent") == 4
    assert {path.name for path in tmp_path.iterdir()} == kept | {"samples", "other"}
    assert list((tmp_path / "other").iterdir()) and not list((tmp_path / "samples").iterdir())

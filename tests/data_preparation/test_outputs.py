"""Folders that appear whole or not at all, and work spread over processes."""

import errno
import os
import signal
from pathlib import Path

import pytest

from command import UserError
from outputs import new_folders
from parallel import for_each


def write(folder, name, text):
    (folder / name).mkdir()
    (folder / name / text).write_text(text)


def test_folders_appear_together(tmp_path):
    out = tmp_path / "deep" / "out"
    with new_folders(out, ["a", "b"], overwrite=False) as building:
        write(building, "a", "new")
        assert not (out / "a").exists()
        write(building, "b", "new")
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    assert (out / "a").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_existing_folder_is_refused_and_untouched(tmp_path):
    write(tmp_path, "a", "old")
    with pytest.raises(UserError, match="already holds a: .*--overwrite True"), new_folders(tmp_path, ["a"], False):
        pytest.fail("work began")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a folder"), new_folders(tmp_path / "file", ["a"], False):
        pytest.fail("work began")


def test_overwrite_replaces_whole_folders_and_nothing_else(tmp_path):
    for name in ("a", "b", "mine"):
        write(tmp_path, name, "old")
    with new_folders(tmp_path, ["a", "b"], overwrite=True) as building:
        write(building, "a", "new")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        *("a", "a/new", "mine", "mine/old")
    ]


@pytest.mark.parametrize("end", ["error", "terminated"])
def test_a_run_that_ends_early_leaves_what_was_there(tmp_path, end):
    write(tmp_path, "a", "old")
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(KeyboardInterrupt if end == "terminated" else ZeroDivisionError),
        new_folders(tmp_path, ["a"], overwrite=True) as building,
    ):
        write(building, "a", "half")
        if end == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["a", "a/old"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_folder_that_appears_meanwhile_is_not_mixed_with(tmp_path):
    with (
        pytest.raises(UserError, match="a appeared while this command ran"),
        new_folders(tmp_path, ["a"], overwrite=False) as building,
    ):
        write(building, "a", "mine")
        write(tmp_path, "a", "theirs")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


@pytest.mark.parametrize("failing", ["b", "building"])
@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_moved_changes_nothing(tmp_path, monkeypatch, error, failing):
    """The third rename fails: of the old folder b out of the way, or of the new folder b to its place."""
    for name in ("a", "b"):
        write(tmp_path, name, "old")
    rename = Path.rename

    def fails(source, target):
        new = ".unfinished" in source.parent.name
        if (source.name == "b" and not new) if failing == "b" else (new and target == tmp_path / "b"):
            raise error
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fails)
    with (
        pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError) as raised,
        new_folders(tmp_path, ["a", "b"], overwrite=True) as building,
    ):
        for name in ("a", "b"):
            write(building, name, "new")
    if raised.type is UserError:
        assert "b cannot be replaced (Permission denied): nothing was changed" in str(raised.value)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        *("a", "a/old", "b", "b/old")
    ]


def test_what_cannot_be_put_back_is_not_deleted(tmp_path, monkeypatch):
    write(tmp_path, "a", "old")
    rename = Path.rename

    def once(source, target):
        if target == tmp_path / "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(PermissionError), new_folders(tmp_path, ["a"], overwrite=True) as building:
        write(building, "a", "new")
    assert [path.name for path in tmp_path.glob(".unfinished-*/replaced-*/a/*")] == ["old"]


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order(workers):
    assert list(for_each(hex, range(100), workers, "numbers")) == [hex(i) for i in range(100)]


def test_an_error_in_a_worker_is_raised_here(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(for_each(os.rmdir, [str(tmp_path / "absent")] * 4, 2, "folders"))


def test_a_killed_worker_is_told_in_one_line():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(for_each(os._exit, [1, 1], 2, "ends"))


def test_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert list(for_each(os.getenv, ["OMP_NUM_THREADS"], 1, "variables")) == ["1"]
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_negative_workers_are_refused():
    with pytest.raises(UserError, match="--num_workers -1"):
        list(for_each(abs, [1], -1, "numbers"))

"""Folders that appear whole or not at all, and work spread over processes."""

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import outputs
from command import UserError
from parallel import _interrupts_ignored, for_each

new_folders = partial(outputs.new_folders, made_here=lambda folder: not (folder / "thesis").exists())


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


def test_what_is_not_made_here_is_not_replaced(tmp_path):
    write(tmp_path, "a", "old")
    write(tmp_path, "b", "thesis")
    with (
        pytest.raises(UserError, match="holds b, which does not look made by this toolkit"),
        new_folders(tmp_path, ["a", "b", "c"], overwrite=True),
    ):
        pytest.fail("the work was begun")
    assert (tmp_path / "a/old").exists() and (tmp_path / "b/thesis").exists()


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
    with (
        pytest.raises(UserError, match="cannot be written: Permission denied"),
        new_folders(tmp_path, ["a"], overwrite=True) as building,
    ):
        write(building, "a", "new")
    assert [path.name for path in tmp_path.glob(".unfinished-*/replaced-*/a/*")] == ["old"]


def test_a_run_killed_before_its_lock_or_after_it_leaves_nothing_for_long(tmp_path):
    (tmp_path / ".unfinished-12345678").mkdir()
    with new_folders(tmp_path, ["a"], overwrite=False) as building:
        write(building, "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_swept_before_its_lock_is_made_again(tmp_path, monkeypatch):
    made = []
    mkdtemp = outputs.tempfile.mkdtemp

    def swept_once(**where) -> str:
        made.append(mkdtemp(**where))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(outputs.tempfile, "mkdtemp", swept_once)
    with new_folders(tmp_path, ["a"], overwrite=False) as building:
        write(building, "a", "new")
        assert str(building) == made[1]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_another_run_makes_is_refused(tmp_path):
    with new_folders(tmp_path, ["a", "b"], overwrite=False) as building:
        write(building, "a", "mine")
        with (
            pytest.raises(UserError, match=f"in use by another run .process {os.getpid()} "),
            new_folders(tmp_path, ["b", "c"], overwrite=True),
        ):
            pytest.fail("work began")
        with new_folders(tmp_path, ["c"], overwrite=False) as other:  # another folder is nobody's business
            write(other, "c", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


KILLED = """
import os, signal, sys
from pathlib import Path
from outputs import new_folders

parent, renames = Path(sys.argv[1]), int(sys.argv[2])
rename, done = Path.rename, []

def killed(source, target):
    if len(done) == renames:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(rename(source, target))

Path.rename = killed
with new_folders(parent, ["a", "b"], True, made_here=lambda folder: True) as building:
    for name in ("a", "b"):
        (building / name).mkdir()
        (building / name / "new").write_text("new")
"""


@pytest.mark.parametrize("renames", range(4))
def test_a_run_killed_while_it_replaces_folders_loses_nothing(tmp_path, renames, capsys):
    """Killed before each of its four renames: old a and old b out of the way, new a and new b in."""
    for name in ("a", "b"):
        write(tmp_path, name, "old")
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(renames)]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": os.path.dirname(outputs.__file__)})
    assert done.returncode == -signal.SIGKILL
    with new_folders(tmp_path, ["a", "b", "c"], overwrite=True) as building:
        write(building, "c", "new")
        there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    visible = {path for path in there if not path.startswith(".")}
    kept = {path.split("/", 2)[2] for path in there if "replaced-" in path}
    first = "a/new" if renames == 3 else "a/old"
    assert visible == {first, "b/old"}
    assert kept == ({"a/old"} if renames == 3 else set())
    said = capsys.readouterr().err
    assert said.count("put back") == (0, 1, 2, 1)[renames]
    assert ("was replaced by a run that was killed" in said) == (renames == 3)
    assert len(list(tmp_path.glob(".unfinished-*"))) == (renames == 3)


def test_a_run_killed_while_it_deletes_what_it_replaced_is_swept(tmp_path):
    write(tmp_path, "a", "old")
    killed = KILLED.replace("Path.rename = killed", "outputs._remove = lambda _: os.kill(os.getpid(), signal.SIGKILL)")
    assert killed != KILLED
    words = [sys.executable, "-c", f"import outputs\n{killed}", str(tmp_path), "9"]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": os.path.dirname(outputs.__file__)})
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.rglob("old"))) == 1
    with new_folders(tmp_path, ["a", "b", "c"], overwrite=True) as building:
        write(building, "c", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]  # and nothing hidden


def test_what_a_living_run_is_building_is_left_alone(tmp_path):
    with new_folders(tmp_path, ["a"], overwrite=False) as building:
        write(building, "a", "mine")
        with new_folders(tmp_path, ["b"], overwrite=False) as other:
            write(other, "b", "theirs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


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


def test_what_is_started_leaves_ctrl_c_to_its_parent_from_the_first():
    """Not only once its modules are imported, which takes seconds."""
    before = signal.getsignal(signal.SIGINT)
    with _interrupts_ignored():
        program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout
    assert said == "True\n" and signal.getsignal(signal.SIGINT) is before
    assert list(for_each(signal.getsignal, [signal.SIGINT], 1, "signals")) == [signal.SIG_IGN]


def test_negative_workers_are_refused():
    with pytest.raises(UserError, match="--num_workers -1"):
        list(for_each(abs, [1], -1, "numbers"))

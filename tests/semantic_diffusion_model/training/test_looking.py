"""Validation and preview look at what was saved: where they fail, nothing is lost."""

import csv
import shutil

import pytest
import torch

from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.training import looking, loop, preview, validation
from guided_diffusion.training.background_writer import BackgroundWriter
from guided_diffusion.training.loop import train
from guided_diffusion.training.run_log import MACHINE_COLUMNS, RunLog

SHORT = {"lr_anneal_steps": 2, "save_interval": 2, "log_interval": 1, "preview_steps": 2}


def values_of(folder, name: str) -> list[str]:
    with open(folder / "progress.csv", newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_a_validation_picture_that_is_gone_costs_a_column_and_not_the_checkpoint(pictures, tiny, tmp_path, monkeypatch):
    data, out = shutil.copytree(pictures, tmp_path / "data"), tmp_path / "out"
    picture = next((data / "images" / "validation").iterdir())
    take_step = loop.take_step

    def step_and_lose(run, *args):
        take_step(run, *args)
        picture.unlink(missing_ok=True)

    monkeypatch.setattr(loop, "take_step", step_and_lose)
    assert train(tiny(datadir=str(data), savedir=str(out), **SHORT), set()) == 0
    assert read_checkpoint(str(out / "model000002.pt")).step == 2 and (out / "opt000002.pt").is_file()
    assert values_of(out, "val_loss") == ["", ""] and values_of(out, "step") == ["1", "2"]
    said = (out / "log.txt").read_text()
    assert "warning: step 2 is not validated: " in said and picture.name in said
    assert "warning: step 2 has no preview: " in said  # which is drawn for validation images


@pytest.mark.parametrize("room", [validation, preview])
def test_a_full_memory_in_it_is_a_warning(room, tiny, tmp_path, monkeypatch):
    name = "_losses" if room is validation else "_column"

    def full(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(room, name, full)
    assert train(tiny(savedir=str(tmp_path), **SHORT), set()) == 0
    said = (tmp_path / "log.txt").read_text()
    assert "the memory is full (CUDA out of memory" in said
    assert (tmp_path / "opt000002.pt").is_file() and bool(values_of(tmp_path, "val_loss")[1]) == (room is preview)
    assert (tmp_path / "preview_000002.png").exists() == (room is validation)


def test_the_checkpoint_is_on_its_way_before_the_validation(tiny, tmp_path, monkeypatch):
    """A signal, and little time, may come while it is validated."""
    own_sums, seen = validation._own_sums, []

    def look(run, *args):
        run.writer.wait()
        seen.append((tmp_path / f"opt{run.step:06d}.pt").is_file())
        return own_sums(run, *args)

    monkeypatch.setattr(validation, "_own_sums", look)
    train(tiny(savedir=str(tmp_path), **SHORT), set())
    assert seen == [True]


def test_all_broken_pictures_are_told_though_the_first_is_one(pictures, tiny, tmp_path):
    data = shutil.copytree(pictures, tmp_path / "data")
    broken = sorted((data / "images" / "training").iterdir())[:3]
    for path in broken:
        path.write_bytes(b"no picture")
    with pytest.raises(loop.AgreedError) as told:
        train(tiny(datadir=str(data), savedir=str(tmp_path / "out"), **SHORT), set())
    assert all(path.name in str(told.value) for path in broken)


def test_rows_of_a_run_that_is_not_gone_on_with_are_set_aside(tiny, tmp_path):
    first, other = tmp_path / "first", tmp_path / "other"
    train(tiny(savedir=str(first), **SHORT), set())
    train(tiny(savedir=str(other), **SHORT | {"lr_anneal_steps": 3, "save_interval": 50}), set())
    for path in other.glob("*.pt"):
        path.unlink()  # it left rows, and no checkpoint
    longer = SHORT | {"lr_anneal_steps": 4}
    train(tiny(savedir=str(other), resume_checkpoint=str(first / "model000002.pt"), **longer), set())
    assert values_of(other, "step") == ["3", "4"]
    assert "does not go on from, are kept in progress_1.csv" in (other / "log.txt").read_text()
    # And the learning rate follows another schedule now.
    assert "lr_anneal_steps was 2, now 4: from here on the learning rate" in (other / "log.txt").read_text()


def test_a_start_by_another_way_of_writing_its_path_is_the_same(tiny, random_weights, tmp_path, monkeypatch):
    shutil.copy(random_weights, tmp_path / "start.pt")
    monkeypatch.chdir(tmp_path)
    train(tiny(savedir="out", resume_checkpoint="start.pt", **SHORT), set())
    more = SHORT | {"lr_anneal_steps": 3}
    train(tiny(savedir="out", resume_checkpoint=str(tmp_path / "start.pt"), **more), set())
    assert (tmp_path / "out" / "model000003.pt").is_file()


class Killed(BaseException):
    pass


def rows_of(folder) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in csv.DictReader(file)]


WHILE = {
    "the row is about to be written": (RunLog, "row"),
    "it is validated": (validation, "_own_sums"),
    "it is drawn": (preview, "_own_columns"),
    "the preview is written": (looking, "write_preview"),
}
LONGER = {"lr_anneal_steps": 4, "save_interval": 2, "log_interval": 3, "preview_steps": 2, "lr": 1e-3, "seed": 3}


@pytest.fixture(scope="module")
def undisturbed(tiny, random_weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), **LONGER), set())
    return folder


@pytest.mark.parametrize("step", [2, 4])  # of which the second is the last: nothing is left to train
@pytest.mark.parametrize("moment", WHILE)
def test_what_a_killed_run_had_not_told_of_its_checkpoint_is_told_by_the_next(
    undisturbed, tiny, random_weights, tmp_path, monkeypatch, moment, step
):
    asked = tiny(savedir=str(tmp_path), resume_checkpoint=str(random_weights), **LONGER)
    place, name = WHILE[moment]
    usual = getattr(place, name)

    def killed(*args):
        if (tmp_path / f"opt{step:06d}.pt").is_file():
            raise Killed
        return usual(*args)

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundWriter, "submit", lambda _, job, *arguments: job(*arguments))  # saved at once
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            train(asked, set())
    assert (tmp_path / f"opt{step:06d}.pt").is_file() and not (tmp_path / f"preview_{step:06d}.png").exists()
    assert train(asked, set()) == 0
    assert rows_of(tmp_path) == rows_of(undisturbed)
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "3", "4"] and rows_of(tmp_path)[0]["val_loss"]
    for picture in ("preview_000002.png", "preview_000004.png"):
        assert (tmp_path / picture).read_bytes() == (undisturbed / picture).read_bytes()


def test_nothing_is_made_up_for_twice_nor_of_what_was_never_asked_for(undisturbed, tiny, random_weights, tmp_path):
    """Neither of a finished run, nor of a state from before it knew its row, nor of a save for being asked to stop."""
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    asked = tiny(savedir=str(folder), resume_checkpoint=str(random_weights), **LONGER)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    train(asked, set())
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} <= {"log.txt"}
    for change in ({"row": None}, {"on_schedule": False}):
        (folder / "preview_000004.png").unlink(missing_ok=True)
        state = torch.load(folder / "opt000004.pt", weights_only=True)
        torch.save(state | change, folder / "opt000004.pt")
        train(asked, set())
        assert not (folder / "preview_000004.png").exists()


def test_a_row_that_is_not_finite_is_no_broken_state(undisturbed, tiny, random_weights, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    state = torch.load(folder / "opt000004.pt", weights_only=True)
    torch.save(state | {"row": state["row"] | {"param_norm": float("inf")}}, folder / "opt000004.pt")
    (folder / "progress.csv").unlink()
    train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), **LONGER), set())
    assert [(row["step"], row["param_norm"]) for row in rows_of(folder)] == [("4", "inf")]

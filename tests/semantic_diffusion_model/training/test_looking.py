"""Validation and preview look at what was saved: where they fail, nothing is lost."""

import csv
import shutil

import pytest
import torch

from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.training import loop, preview, validation
from guided_diffusion.training.loop import train

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

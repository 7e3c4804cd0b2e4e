"""What a sampling job refuses, in one line: bad checkpoints, settings, label maps, and folders it cannot write."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sampled_images import assert_same_images

from guided_diffusion.runs.checkpoints import plain_state_dict, write_torch
from guided_diffusion.sampling.results import Results


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (os.path.join(os.path.dirname(__file__), "this-must-not-appear"),)


def write_bad(kind: str, folder: Path, checkpoint: Path) -> Path:
    path = folder / f"{kind}.pt"
    if kind == "optimizer":
        torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, path)
    elif kind == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-5000])
    elif kind == "pickle":
        torch.save({"input_blocks.0.0.weight": RunsCode()}, path)
    elif kind == "broken":
        content = torch.load(checkpoint, weights_only=True)
        content["out.2.bias"][:] = float("nan")
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("optimizer", "is the state of an optimizer; the weights are in the ema_* and model* files"),
        ("truncated", "is truncated, or no checkpoint"),
        ("pickle", "could run code: it is not opened"),
        ("absent", "does not exist"),
        ("broken", "1 of its 200 tensors hold infinite or undefined (NaN) values (out.2.bias)"),
    ],
)
def test_bad_checkpoints(command, checkpoint, tmp_path, kind, words):
    code, _, err = command(resume_checkpoint=write_bad(kind, tmp_path, checkpoint))
    assert code == 2 and err.count("error:") == 1 and words in err and "Traceback" not in err
    assert not Path(__file__).with_name("this-must-not-appear").exists()


def test_timesteps_that_were_never_learned(command, checkpoint, tiny, tmp_path):
    """A training with a respacing learns some timesteps alone, and its checkpoint says which."""
    respaced = tmp_path / "respaced"
    respaced.mkdir()
    weights = torch.load(checkpoint, weights_only=True)
    settings = tiny(diffusion_steps=50, timestep_respacing="ddim5")
    write_torch(str(respaced), "ema_0.9999_000005.pt", plain_state_dict(weights, settings))
    code, _, err = command(resume_checkpoint=respaced)
    assert code == 2 and err.count("\n") == 1 and "trained with --timestep_respacing ddim5" in err
    code, out, err = command(resume_checkpoint=respaced, num_steps=None, timestep_respacing="ddim5")
    assert code == 0, err
    code, _, err = command(
        resume_checkpoint=respaced, num_steps=None, timestep_respacing="5", results_dir=tmp_path / "b"
    )
    assert code == 2 and "sample with the same flag" in err  # five others


@pytest.mark.parametrize("overwrite", [False, True])
def test_weights_that_do_not_fit_cost_no_finished_image(command, complete, checkpoint, tmp_path, overwrite):
    """A file with a tensor too many, of whose network nothing else is wrong."""
    results = Path(shutil.copytree(complete, tmp_path / "results"))
    before = {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}
    content = torch.load(checkpoint, weights_only=True)
    content["time_embed.9.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "model000001.pt")
    code, _, err = command(resume_checkpoint=tmp_path / "model000001.pt", overwrite=overwrite, seed=5)
    assert code == 2 and "does not fit the network: 1 tensors differ" in err
    assert before == {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}


def with_label(folder: Path, value: int) -> Path:
    target = folder / "data/sector_annotations/training"
    target.mkdir(parents=True)
    Image.new("L", (16, 16), value).save(target / "a.png")
    return folder / "data"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resume_checkpoint": None}, "--resume_checkpoint is needed"),
        ({"is_train": True}, "image_train.py trains"),
        ({"datadir": "/nowhere"}, "/nowhere is not a folder"),
        ({"device": "cuda"}, "no GPU"),
        ({"num_steps": 51}, "51 sampling steps: must be from 1 to the 50"),
        ({"num_steps": "many"}, "num_steps"),
    ],
    ids=str,
)
def test_bad_settings_are_one_line_and_leave_no_folder(command, tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    code, _, err = command(**changes)
    assert code == 2 and err.count("error:") == 1 and words in err and "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_bad_label_maps(command, tmp_path):
    code, _, err = command(datadir=with_label(tmp_path, 9))
    assert code == 2 and "a.png has the value 9; classes are 0 to 4" in err
    assert not (tmp_path / "results").exists()
    (tmp_path / "data/sector_annotations/training/a.png").unlink()
    code, _, err = command(datadir=tmp_path / "data")
    assert code == 2 and "no such folder, or no pictures in it" in err


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_the_pictures_that_are_sampled_for_are_not_replaced(command, pictures, tmp_path, overwrite, linked):
    """results_dir is datadir, or its images/ are those of datadir by a link."""
    data, results = tmp_path / "data", tmp_path / ("other" if linked else "data")
    for kind, source in (("images", "images"), ("labels", "sector_annotations")):
        shutil.copytree(pictures / source / "training", data / kind)
    if linked:
        results.mkdir()
        (results / "images").symlink_to(data / "images")
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    code, _, err = command(datadir=data, dataset_mode="folder", results_dir=results, overwrite=overwrite)
    assert code == 2 and err.count("error:") == 1 and "holds the pictures of datadir" in err
    assert before == {path: path.read_bytes() for path in data.rglob("*.png")}


def test_a_results_dir_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/results"):
        code, _, err = command(results_dir=place)
        assert code == 2 and err.count("error:") == 1 and f"{place}" in err and "cannot write to results_dir" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_results_dir(command, tmp_path):
    (tmp_path / "results").mkdir(mode=0o555)
    code, _, err = command()
    assert code == 2 and "cannot write to results_dir" in err


def test_a_disk_that_is_full_keeps_what_is_whole(command, complete, tmp_path):
    """A limit on the size of files stands for the disk: the manifest's part reaches it after a few rows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        code, _, err = command(batch_size_test=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (
        code == 2
        and err.count("error:") == 1
        and "manifest.part0.csv cannot be written: File too large" in err
        and "Traceback" not in err
    )
    made = Results(str(tmp_path / "results"), 0).made()
    assert 0 < len(made) < 15 and not list(tmp_path.rglob(".*.tmp.*"))
    assert command()[0] == 0
    assert_same_images(complete, tmp_path / "results")


@pytest.mark.parametrize("eta", [-0.1, 1.1, 50])
def test_more_fresh_noise_than_ddpm_has_is_refused(command, tmp_path, eta):
    code, _, err = command(sampler="ddim", eta=eta)
    assert code == 2 and err.startswith("error: --eta") and err.count("\n") == 1
    assert not (tmp_path / "results").exists()

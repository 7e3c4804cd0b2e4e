"""The sampling job in this process: what lies in the folder afterwards, what it depends on, and what is refused."""

import csv
import dataclasses
import hashlib
import json
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import image_sample
from config import Settings
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs import distributed, launch
from guided_diffusion.runs.checkpoints import ema_name, plain_state_dict, write_settings, write_torch
from guided_diffusion.sampling import job as sampling
from guided_diffusion.sampling import reporting
from guided_diffusion.sampling.results import FOLDERS, Results

TRAINING = [f"p{i}" for i in range(1, 11)]
VALIDATION = [f"v{i}" for i in range(1, 6)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny, random_weights) -> Path:
    """The averaged weights of a training of ours: the settings of the network in the file."""
    folder = tmp_path_factory.mktemp("trained")
    weights = torch.load(random_weights, weights_only=True)
    write_torch(str(folder), ema_name(0.9999, 50000), plain_state_dict(weights, tiny(diffusion_steps=50)))
    return folder / "ema_0.9999_050000.pt"


@pytest.fixture
def command(checkpoint, pictures, as_flags, capsys, tmp_path):
    """Run image_sample.py with changes; gives (exit code, standard output, standard error)."""

    def run(**changes) -> tuple[int, str, str]:
        common = {"datadir": pictures, "resume_checkpoint": checkpoint, "results_dir": tmp_path / "results"}
        flags = common | {"num_samples": 0, "num_steps": 3, "device": "cpu"} | changes
        words = as_flags(**{name: value for name, value in flags.items() if value is not None})
        code = launch.run(image_sample.main, Settings, args=words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def complete(tmp_path_factory, checkpoint, pictures):
    """One image for each label map, in 3 steps."""
    folder = tmp_path_factory.mktemp("complete")
    settings = Settings(datadir=str(pictures), resume_checkpoint=str(checkpoint), results_dir=str(folder))
    settings = dataclasses.replace(settings, num_samples=0, num_steps=3, device="cpu")
    sampling.run_sampling(settings, set(), distributed.start("cpu"))
    return folder


def png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def names(folder: Path, kind: str = "samples") -> set[str]:
    return {path.stem for path in (folder / kind).iterdir()}


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_images(one: Path, other: Path, tolerance: int = 1) -> None:
    assert names(one) == names(other)
    for name in names(one):
        assert abs(png(one / f"samples/{name}.png") - png(other / f"samples/{name}.png")).max() <= tolerance, name


# --- What is written --------------------------------------------------------------------------------------------------


def test_five_folders_a_manifest_and_a_contact_sheet(complete, pictures, checkpoint):
    wanted = TRAINING + VALIDATION
    assert all(names(complete, kind) == set(wanted) for kind in FOLDERS)
    assert {path.name for path in complete.iterdir()} == {*FOLDERS, "manifest.csv", "preview.png"}
    for name in wanted:
        split = "training" if name[0] == "p" else "validation"
        label = png(pictures / "sector_annotations" / split / f"{name}.png")
        assert (png(complete / f"labels/{name}.png") == label).all()
        assert (png(complete / f"labels_visible/{name}.png") == label * 255 // 4).all()
        assert (png(complete / f"images/{name}.png") == png(pictures / "images" / split / f"{name}.png")).all()
        stack = png(complete / f"combined/{name}.png")
        real, synthetic, over, lines = stack.reshape(4, 16, 16, 3)
        assert (real == png(complete / f"images/{name}.png")[..., None]).all()
        assert (synthetic == png(complete / f"samples/{name}.png")[..., None]).all()
        assert all((panel != synthetic).any() and panel.any() for panel in (over, lines))
    for kind, mode in zip(FOLDERS, ("L", "L", "L", "L", "RGB"), strict=True):
        assert Image.open(complete / kind / "p1.png").mode == mode
    table = manifest(complete)
    assert [row["stem"] for row in table] == wanted
    assert table[3]["label_map"] == str(pictures / "sector_annotations/training/p4.png")
    assert (table[3]["sampler"], table[3]["steps"], table[3]["checkpoint"]) == ("unipc", "3", str(checkpoint))
    assert Image.open(complete / "preview.png").size[0] > 8 * 96


def test_samples_depend_on_label_stem_round_and_seed(complete, command, tmp_path):
    samples = [png(complete / f"samples/{name}.png") for name in TRAINING]
    assert all((one != samples[0]).any() for one in samples[1:])
    command(num_samples=16)
    assert (png(tmp_path / "results/samples/p1.png") == samples[0]).all()
    assert (png(tmp_path / "results/samples/p1_r1.png") != samples[0]).any()
    assert manifest(tmp_path / "results")[15]["round"] == "1"
    command(num_samples=1, seed=1, results_dir=tmp_path / "other")
    assert (png(tmp_path / "other/samples/p1.png") != samples[0]).any()


def test_label_maps_alone_another_size_and_metadata(command, tmp_path, pictures):
    folder = tmp_path / "data" / "labels"
    folder.mkdir(parents=True)
    for name in ("x1", "x2"):
        small = Image.open(pictures / "sector_annotations/training/p1.png")
        small.resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    (tmp_path / "data" / "metadata.csv").write_text("stem,spacing\nx1,0.3\n")
    code, out, _ = command(datadir=tmp_path / "data", dataset_mode="folder")
    assert code == 0 and out.count("2 label maps are brought to 16 x 16 pixels") == 1
    results = tmp_path / "results"
    assert names(results) == {"x1", "x2"} and names(results, "images") == set()
    assert (png(results / "labels/x1.png") == png(pictures / "sector_annotations/training/p1.png")).all()
    assert png(results / "samples/x1.png").shape == (16, 16, 3), "nothing says that this data is grey"
    assert not png(results / "combined/x1.png").reshape(4, 16, 16, 3)[0].any()
    assert (results / "metadata.csv").read_text() == "stem,spacing\nx1,0.3\n"


# --- What does not change the images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"batch_size_test": 1}, {"batch_size_test": 7}, {"modulation": "dense"}], ids=str)
def test_the_same_images_from_any_batch_and_modulation(complete, command, tmp_path, changes):
    assert command(**changes)[0] == 0
    assert_same_images(complete, tmp_path / "results")


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_fresh_noise_does_not_depend_on_the_batch(command, tmp_path, sampler):
    changes = {"sampler": sampler, "eta": 1.0 if sampler == "ddim" else None, "num_samples": 5}
    for size in (1, 3):
        assert command(**changes, batch_size_test=size, results_dir=tmp_path / str(size))[0] == 0
    assert_same_images(tmp_path / "1", tmp_path / "3")


def test_the_next_batch_is_prepared_ahead_and_the_null_condition_made_once(command, tmp_path, monkeypatch):
    """15 images in batches of 4: of the condition of four batches three are begun ahead, in a thread."""
    threads, nulls = [], []
    prepare, null = sampling.Job.prepare, sampling.null_condition

    def noting(job, items):
        threads.append(threading.current_thread().name.split("_")[0])
        return prepare(job, items)

    def counting(network, images, *size, device):
        nulls.append(images)
        return null(network, images, *size, device=device)

    monkeypatch.setattr(sampling.Job, "prepare", noting)
    monkeypatch.setattr(sampling, "null_condition", counting)
    assert command(batch_size_test=4, s=2.0, results_dir=tmp_path / "guided")[0] == 0
    assert threads == ["MainThread", "ahead", "ahead", "ahead"]
    assert nulls == [4, 3]


def test_an_interrupted_job_goes_on_where_it_was(complete, command, tmp_path, monkeypatch):
    """The third batch fails; what was made before stays, and the rest comes out as in one go."""
    results, calls = tmp_path / "results", []
    sample = sampling.Job.sample

    def failing(job, items, *prepared):
        calls.append(len(items))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(job, items, *prepared)

    monkeypatch.setattr(sampling.Job, "sample", failing)
    assert command(batch_size_test=4)[0] == 130
    assert names(results) == set(TRAINING[:8]) and not (results / "preview.png").exists()
    stamps = {name: (results / f"samples/{name}.png").stat().st_mtime_ns for name in names(results)}
    monkeypatch.undo()
    code, out, _ = command(batch_size_test=3)
    assert code == 0 and "15 images, 8 of them there already" in out and "(7 of them made now)" in out
    assert stamps == {name: (results / f"samples/{name}.png").stat().st_mtime_ns for name in stamps}
    assert_same_images(complete, results)
    assert [row["stem"] for row in manifest(results)] == TRAINING + VALIDATION
    assert "(0 of them made now)" in command()[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"num_steps": 4},
        {"s": 2.0},
        {"sampler": "ddim"},
        {"clip_denoised": False},
        {"precision": "bf16"},
        {"spacing": "even"},
    ],
    ids=str,
)
def test_other_settings_are_refused_and_nothing_is_touched(complete, command, changes):
    before = (complete / "manifest.csv").read_bytes()
    code, out, err = command(results_dir=complete, **changes)
    assert code == 2 and err.count("error:") == 1 and "Traceback" not in err
    assert "15 images made with other settings" in err and "--overwrite True" in err
    assert (complete / "manifest.csv").read_bytes() == before and len(names(complete)) == 15


def test_a_folder_made_with_even_steps_is_not_gone_on_with_in_others(command, tmp_path):
    assert command(num_samples=3, spacing="even")[0] == 0
    assert {row["spacing"] for row in manifest(tmp_path / "results")} == {"even"}
    code, _, err = command(num_samples=5)
    assert code == 2 and "spacing even, not logsnr" in err and len(names(tmp_path / "results")) == 3
    assert command(num_samples=5, spacing="even")[0] == 0
    assert len(names(tmp_path / "results")) == 5


def test_a_manifest_from_before_there_was_v_prediction_is_gone_on_with(command, checkpoint, tmp_path):
    """Its network was told by settings without prediction_type."""
    command(num_samples=3)
    about = torch.load(checkpoint, weights_only=True)._metadata[""]["settings"]
    del about["prediction_type"]
    text = json.dumps(["camus", about], sort_keys=True)
    assert {row["network"] for row in manifest(tmp_path / "results")} == {
        hashlib.sha256(text.encode()).hexdigest()[:16]
    }


def test_overwrite_replaces_them(command, tmp_path):
    command(num_samples=3)
    before = png(tmp_path / "results/samples/p1.png")
    assert command(num_samples=3, seed=1, overwrite=True)[0] == 0
    assert (png(tmp_path / "results/samples/p1.png") != before).any()
    assert {row["seed"] for row in manifest(tmp_path / "results")} == {"1"}


def test_files_are_written_beside_the_sampling(command, monkeypatch):
    """The second batch is sampled while the first still waits to be written."""
    write, sample = sampling.Job.write, sampling.Job.sample
    second_sampled, calls = threading.Event(), []

    def waiting(job, *args):
        assert second_sampled.wait(60)
        write(job, *args)

    def noting(job, items, *prepared):
        drawn = sample(job, items, *prepared)
        calls.append(items)
        if len(calls) == 2:
            second_sampled.set()
        return drawn

    monkeypatch.setattr(sampling.Job, "write", waiting)
    monkeypatch.setattr(sampling.Job, "sample", noting)
    assert command(batch_size_test=8)[0] == 0


def test_the_bar_counts_the_images_of_all_ranks(tmp_path, capsys):
    from types import SimpleNamespace

    results = Results(str(tmp_path), 0)
    with reporting.progress(results, 15, 8, SimpleNamespace(is_main=True)):
        for rank in (1, 2):
            header = "stem\n"
            (tmp_path / f"manifest.part{rank}.csv").write_text(header + "a\n" * (3 * rank))
        (tmp_path / "manifest.part2.csv").write_text(header + "a\n" * 4)
    assert capsys.readouterr().err == "sampling: 15 of 15 in 00:00\n"


# --- Checkpoints and guidance -----------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path, random_weights):
    """A file of nothing but tensors, as published ones are."""
    path = tmp_path / "published" / "ema_0.9999_050000.pt"
    path.parent.mkdir()
    path.write_bytes(random_weights.read_bytes())
    return path


def test_a_published_json_beside_the_checkpoint_is_read(plain, tiny, command, complete, tmp_path):
    write_settings(str(plain.parent), tiny(diffusion_steps=50))
    assert set(json.loads((plain.parent / "train_test_config.json").read_text())) == {"DATASETS", "TRAIN", "TEST"}
    code, out, _ = command(resume_checkpoint=plain)
    assert code == 0 and "averaged weights; settings of the network from train_test_config.json beside it" in out
    assert_same_images(complete, tmp_path / "results", 0)


def test_without_any_json_shapes_and_flags_tell(plain, command, complete, tmp_path):
    told = {"img_size": 16, "num_head_channels": 32, "diffusion_steps": 50}
    code, out, _ = command(resume_checkpoint=plain, **told)
    assert code == 0 and "the shapes of its tensors" in out and "img_size 16, num_head_channels 32" in out
    assert_same_images(complete, tmp_path / "results", 0)
    code, _, err = command(resume_checkpoint=plain, **told | {"num_head_channels": 48})
    assert code == 2 and "num_head_channels 48 does not divide the 64 channels" in err
    code, _, err = command(resume_checkpoint=plain, **told, num_channels=64)
    assert code == 2 and "--num_channels 64: the checkpoint" in err and "has 32" in err
    # Heads and the process are not in the tensors: a folder of images remembers them all the same.
    code, _, err = command(resume_checkpoint=plain, **told | {"diffusion_steps": 40})
    assert code == 2 and "made with other settings (p1: network" in err


def test_a_flag_that_disagrees_with_the_checkpoint_is_an_error(command):
    code, _, err = command(img_size=32)
    assert code == 2 and "--img_size 32: the checkpoint" in err and "has 16; leave the flag out" in err
    assert command(img_size=16, num_samples=1)[0] == 0


def test_a_folder_gives_its_averaged_weights_and_says_so(command, checkpoint, tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    for name in ("model060000.pt", "ema_0.9999_050000.pt"):
        (folder / name).write_bytes(checkpoint.read_bytes())
    code, out, _ = command(resume_checkpoint=folder, num_samples=1)
    assert code == 0 and "ema_0.9999_050000.pt: the newest averaged weights (EMA)" in out
    code, out, _ = command(resume_checkpoint=folder / "model060000.pt", num_samples=1)
    assert code == 0 and "plain weights (the averaged ones usually draw better)" in out


def test_guidance_changes_images_and_warns_where_it_was_not_trained(command, complete, tiny, random_weights, tmp_path):
    code, out, _ = command(s=3.0, num_samples=2)
    assert code == 0 and "warning: guidance needs a model that was trained with drop_rate > 0" in out
    assert (png(tmp_path / "results/samples/p1.png") != png(complete / "samples/p1.png")).any()
    weights = torch.load(random_weights, weights_only=True)
    dropping = plain_state_dict(weights, tiny(diffusion_steps=50, drop_rate=0.2))
    write_torch(str(tmp_path), ema_name(0.99, 1), dropping)
    path = tmp_path / ema_name(0.99, 1)
    code, out, _ = command(s=3.0, num_samples=1, resume_checkpoint=path, results_dir=tmp_path / "r2")
    assert code == 0 and "warning" not in out
    assert "warning" not in command(num_samples=1, results_dir=tmp_path / "r3")[1]


def test_an_unconditional_model_samples_too(command, tiny, tmp_path):
    settings = tiny(class_cond=False, diffusion_steps=50)
    write_torch(str(tmp_path), "model000001.pt", plain_state_dict(build_network(settings).state_dict(), settings))
    flags = {"resume_checkpoint": tmp_path / "model000001.pt", "num_samples": 2}
    code, out, _ = command(**flags)
    assert code == 0 and "the network is unconditional: its images belong to no label map" in out
    assert len(names(tmp_path / "results")) == 2
    assert {path.name for path in (tmp_path / "results").iterdir() if path.is_dir()} == {"samples"}
    assert {(row["label_map"], row["label_sha256"]) for row in manifest(tmp_path / "results")} == {("", "")}
    assert "(0 of them made now)" in command(**flags)[1]


# --- What is refused --------------------------------------------------------------------------------------------------


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(command, tmp_path):
    """Sampled on the device, from noise drawn there; the batch, found by trying, does not change the image."""
    common = {"device": "cuda", "precision": "fp32"}
    assert command(**common)[0] == 0
    assert command(**common, batch_size_test=4, results_dir=tmp_path / "four")[0] == 0
    assert {row["device"] for row in manifest(tmp_path / "results")} == {"cuda"}
    assert_same_images(tmp_path / "results", tmp_path / "four", 2)

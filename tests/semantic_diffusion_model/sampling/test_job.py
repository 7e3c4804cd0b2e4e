"""The sampling job in this process: what lies in the folder afterwards, and what it depends on."""

import hashlib
import json
import shutil
import threading

import pytest
import torch
from PIL import Image
from sampled_images import assert_same_images, manifest, names, png

from guided_diffusion.sampling import job as sampling
from guided_diffusion.sampling import reporting
from guided_diffusion.sampling.carried import carry_along
from guided_diffusion.sampling.results import FOLDERS, Results

TRAINING = [f"p{i}" for i in range(1, 11)]
VALIDATION = [f"v{i}" for i in range(1, 6)]


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


def test_metadata_of_label_maps_from_several_folders_is_kept(command, tmp_path, pictures):
    tables = {"one": "stem,spacing\nx1,0.3\nx2,0.4\n", "two": "stem,patient\nx2,7\nx3,8\n"}
    for name, table in tables.items():
        folder = tmp_path / name / "labels"
        folder.mkdir(parents=True)
        for stem in {"one": ("x1", "x2"), "two": ("x3",)}[name]:
            shutil.copy(pictures / "sector_annotations/training/p1.png", folder / f"{stem}.png")
        (tmp_path / name / "metadata.csv").write_text(table)
        assert command(datadir=tmp_path / name, dataset_mode="folder")[0] == 0
    assert names(tmp_path / "results") == {"x1", "x2", "x3"}
    assert (tmp_path / "results/metadata.csv").read_text() == "stem,patient,spacing\nx1,,0.3\nx2,7,\nx3,8,\n"
    carry_along(str(tmp_path / "two"), str(tmp_path / "results"), ["labels/x3.png"], described=False)  # x1 is gone
    assert (tmp_path / "results/metadata.csv").read_text() == tables["two"]


def test_a_job_killed_at_its_end_counts_as_unfinished_until_all_is_there(command, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "carry_along", killed)
        assert command(num_samples=2)[0] == 130
    results = Results(str(tmp_path / "results"), 0)
    assert results.is_unfinished() and len(results.made()) == 2
    assert command(num_samples=2)[0] == 0 and not results.is_unfinished()


def test_a_job_whose_images_are_not_all_there_is_unfinished(command, tmp_path, monkeypatch):
    """As where a rank writes into a folder of its own, that the node of rank 0 does not see."""
    make = sampling.Job.make
    with monkeypatch.context() as patch:
        patch.setattr(sampling.Job, "make", lambda job, pieces, **_: make(job, [piece[1:] for piece in pieces]))
        code, _, err = command(num_samples=5)
    results = Results(str(tmp_path / "results"), 0)
    assert code == 2 and "error: 1 of 5 images are missing from results_dir" in err and "run the same command" in err
    assert results.is_unfinished() and len(results.made()) == 4
    assert command(num_samples=5)[0] == 0 and not results.is_unfinished() and len(names(tmp_path / "results")) == 5


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
        {"blank_outside": True},
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


def test_a_folder_made_with_other_ends_of_a_spacing_is_not_gone_on_with(command, tmp_path, monkeypatch):
    monkeypatch.setattr("guided_diffusion.sampling.plan.LAST_NOISE", 0.1)
    assert command(num_samples=3)[0] == 0
    monkeypatch.undo()
    code, _, err = command(num_samples=5)
    assert code == 2 and "spacing_ends 0.6 0.1, not 0.6 0.4" in err


def test_a_manifest_from_before_there_was_v_prediction_is_gone_on_with(command, checkpoint, tmp_path):
    """Its network was told by settings without prediction_type."""
    command(num_samples=3)
    about = torch.load(checkpoint, weights_only=True)._metadata[""]["settings"]
    for name in ("prediction_type", "patch_size", "image_channels"):
        del about[name]
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


def test_images_of_a_batch_are_written_at_the_same_time(command, monkeypatch, tmp_path):
    """As many as there are cores: here each waits for another. Every row is entered once, under one header."""
    write, together = sampling.Job.write, threading.Barrier(2, timeout=60)
    start = sampling.Job.__init__

    def with_cores(job, *args):
        start(job, *args)
        job.cores = 2

    def waiting(job, *args):
        together.wait()
        write(job, *args)

    monkeypatch.setattr(sampling.Job, "__init__", with_cores)
    monkeypatch.setattr(sampling.Job, "write", waiting)
    assert command(batch_size_test=8, num_samples=14)[0] == 0
    assert len(manifest(tmp_path / "results")) == 14


def test_the_bar_counts_the_images_of_all_ranks(tmp_path, capsys):
    from types import SimpleNamespace

    results = Results(str(tmp_path), 0)
    with reporting.progress(results, 15, 8, SimpleNamespace(is_main=True)):
        for rank in (1, 2):
            header = "stem\n"
            (tmp_path / f"manifest.part{rank}.csv").write_text(header + "a\n" * (3 * rank))
        (tmp_path / "manifest.part2.csv").write_text(header + "a\n" * 4)
    assert capsys.readouterr().err == "sampling: 15 of 15 in 00:00\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(command, tmp_path):
    """Sampled on the device, from noise drawn there; the batch, found by trying, does not change the image."""
    common = {"device": "cuda", "precision": "fp32"}
    assert command(**common)[0] == 0
    assert command(**common, batch_size_test=4, results_dir=tmp_path / "four")[0] == 0
    assert {row["device"] for row in manifest(tmp_path / "results")} == {"cuda"}
    assert_same_images(tmp_path / "results", tmp_path / "four", 2)

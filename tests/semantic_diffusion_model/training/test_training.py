"""Training in this process: resuming, what is written, every setting that leads another way."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from command import UserError
from guided_diffusion.process.timesteps import FixedSampler
from guided_diffusion.runs import checkpoints
from guided_diffusion.training.loop import train
from guided_diffusion.training.resuming import newest_start
from guided_diffusion.training.run_log import MACHINE_COLUMNS

# Everything with a state of its own is on: two averages, timesteps by their losses, dropout, clipping, microbatches.
RICH = {
    "batch_size_train": 4,
    "microbatch": 3,
    "lr": 1e-3,
    "lr_anneal_steps": 8,
    "save_interval": 4,
    "log_interval": 3,
    "ema_rate": "0.9,0.99",
    "diffusion_steps": 2,
    "schedule_sampler": "loss-second-moment",
    "dropout": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "random_flip": True,
    "random_crop": True,
    "drop_rate": 0.3,
}


def rows_of(folder: Path, until: int | None = None) -> list[dict[str, str]]:
    """progress.csv without the columns about the machine."""
    with open(folder / "progress.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in csv.DictReader(file)]
    return [row for row in rows if until is None or int(row["step"]) <= until]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny, random_weights):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), **RICH), set())
    return folder


def copy_checkpoint(source: Path, target: Path, step: int) -> None:
    target.mkdir(exist_ok=True)
    for path in source.glob(f"*{step:06d}.pt"):
        shutil.copy(path, target)
    shutil.copy(source / "progress.csv", target)
    shutil.copy(source / "log.txt", target)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(uninterrupted, tmp_path, tiny, random_weights, capsys):
    copy_checkpoint(uninterrupted, tmp_path, 4)
    # A later checkpoint that a crash cut short is passed over, with a warning.
    whole = (uninterrupted / "opt000008.pt").read_bytes()
    (tmp_path / "opt000008.pt").write_bytes(whole[: len(whole) // 2])
    train(tiny(savedir=str(tmp_path), resume_checkpoint=str(random_weights), **RICH), set())
    assert "checkpoint 8 is passed over" in capsys.readouterr().err
    assert "going on from step 4" in (tmp_path / "log.txt").read_text()
    names = ["model000008.pt", "ema_0.9_000008.pt", "ema_0.99_000008.pt", "opt000008.pt"]
    for name in names[:3]:
        one, other = weights(uninterrupted, name), weights(tmp_path, name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = (weights(folder, "opt000008.pt") for folder in (uninterrupted, tmp_path))
    for key in ("samples", "ema_updates", "step", "files"):
        assert one[key] == other[key]
    for key in ("optimizer", "timesteps", "metrics"):
        assert flat(one[key]) == flat(other[key])
    assert rows_of(uninterrupted) == rows_of(tmp_path)
    assert [row["step"] for row in rows_of(tmp_path)] == ["3", "4", "6", "8"]
    assert min(one["timesteps"]["counts"]) > 10  # the timesteps were drawn by their losses in the end


def flat(value) -> list:
    """All that a nested structure holds, tensors as lists of numbers."""
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    if isinstance(value, dict):
        return [[str(key), flat(item)] for key, item in value.items()]
    return [flat(item) for item in value] if isinstance(value, list | tuple) else value


def test_the_run_has_left_what_it_should(uninterrupted):
    assert all(p.suffix != ".tmp" and not p.name.startswith(".") for p in uninterrupted.iterdir())
    last = rows_of(uninterrupted)[-1]
    assert (last["samples"], last["lr_anneal_steps"], last["lg_loss_scale"]) == ("32", "8", "0")
    assert float(last["lr"]) == pytest.approx(1e-3 / 8)
    assert float(last["val_loss"]) > 0 and float(last["grad_norm"]) > 0 and float(last["param_norm"]) > 0
    assert rows_of(uninterrupted)[0]["val_loss"] == ""
    tree = json.loads((uninterrupted / "train_test_config.json").read_text())
    assert tree["TRAIN"]["DIFFUSION"]["DIFFUSION_STEPS"] == 2
    text = (uninterrupted / "log.txt").read_text()
    assert "image_sample.py --datadir" in text and "ema_0.9_000008.pt" in text
    # The average lags behind the weights, the slower one more.
    start, end = weights(uninterrupted, "model000004.pt"), weights(uninterrupted, "model000008.pt")
    key = "input_blocks.0.0.weight"
    assert not torch.equal(start[key], end[key])
    assert not torch.equal(weights(uninterrupted, "ema_0.9_000008.pt")[key], end[key])


def test_a_finished_run_does_nothing_more(uninterrupted, tiny, random_weights):
    before = (uninterrupted / "opt000008.pt").stat().st_mtime_ns
    rows = rows_of(uninterrupted)
    train(tiny(savedir=str(uninterrupted), resume_checkpoint=str(random_weights), **RICH), set())
    assert (uninterrupted / "opt000008.pt").stat().st_mtime_ns == before
    assert rows_of(uninterrupted) == rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 5e-4}, "lr was 0.001, now 0.0005"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"ema_rate": "0.9"}, "ema_rate was 0.9,0.99, now 0.9"),
        ({"batch_size_train": 2}, "batch_size_train was 4 on 1 ranks, now 2 on 1"),
        ({"precision": "bf16"}, "precision was fp32, now bf16"),
        ({"num_channels": 64}, "num_channels was 32, now 64"),
    ],
    ids=str,
)
def test_going_on_with_other_settings_is_refused_by_name(uninterrupted, tiny, change, words):
    with pytest.raises(UserError) as caught:
        train(tiny(**{"savedir": str(uninterrupted)} | RICH | change), set())
    assert words in str(caught.value)


def test_the_same_command_goes_on_where_the_network_came_from_a_checkpoint(uninterrupted, tmp_path, tiny):
    """Flags that were not given come from the starting weights, then too when the run goes on."""
    start = tmp_path / "start"
    start.mkdir()
    shutil.copy(uninterrupted / "ema_0.9_000008.pt", start / "ema_0.9_000008.pt")
    common = {"savedir": str(tmp_path), "resume_checkpoint": str(start), "batch_size_train": 2, "num_res_blocks": 2}
    given = {"savedir", "resume_checkpoint", "batch_size_train"}
    train(tiny(**common, lr_anneal_steps=1), given)
    train(tiny(**common, lr_anneal_steps=2), given)
    assert newest_start(str(tmp_path), pytest.fail).step == 2
    state = torch.load(tmp_path / "opt000002.pt", weights_only=True)
    assert (state["run"]["settings"]["num_res_blocks"], state["run"]["settings"]["diffusion_steps"]) == (1, 2)
    with pytest.raises(UserError, match="--num_res_blocks 2.*has 1"):
        train(tiny(**common, lr_anneal_steps=3), given | {"num_res_blocks"})


def test_the_state_is_read_once_to_be_judged_and_once_to_go_on_from(tmp_path, tiny, monkeypatch):
    """Each rank reads it, and of a large network it takes gigabytes."""
    start, common = tmp_path / "start", {"batch_size_train": 1}
    train(tiny(**common, savedir=str(start), lr_anneal_steps=1), set())
    common |= {"savedir": str(tmp_path / "run"), "resume_checkpoint": str(start / "model000001.pt")}
    (start / "opt000001.pt").unlink()
    train(tiny(**common, lr_anneal_steps=1), set())
    read, read_torch = [], checkpoints.read_torch

    def counted(path: str):
        read.append(Path(path).name)
        return read_torch(path)

    monkeypatch.setattr(checkpoints, "read_torch", counted)
    train(tiny(**common, lr_anneal_steps=2), set())
    assert read.count("opt000001.pt") == 2


def test_settings_that_do_not_change_results_may_change(uninterrupted, tmp_path, tiny, capsys):
    copy_checkpoint(uninterrupted, tmp_path, 4)
    free = {"use_checkpoint": False, "modulation": "dense", "log_interval": 1, "save_interval": 3, "microbatch": -1}
    train(tiny(**{"savedir": str(tmp_path)} | RICH | free | {"lr_anneal_steps": 5, "dropout": 0.1}), set())
    assert [row["step"] for row in rows_of(tmp_path)] == ["3", "4", "5"]
    assert newest_start(str(tmp_path), pytest.fail).step == 5
    said = "".join(capsys.readouterr())
    assert "dropout in parts of -1 is drawn otherwise than in" in said


def test_the_state_beside_a_given_checkpoint_is_used_in_another_savedir(uninterrupted, tmp_path, tiny):
    settings = {"savedir": str(tmp_path), "resume_checkpoint": str(uninterrupted / "ema_0.99_000004.pt")}
    train(tiny(**settings | RICH), set())
    one, other = weights(uninterrupted, "model000008.pt"), weights(tmp_path, "model000008.pt")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_old_checkpoints_are_pruned_and_microbatches_average(tmp_path, tiny, random_weights):
    """The gradient of a batch does not depend on its parts, nor on where the images are kept."""
    runs = {}
    for microbatch in (-1, 1, 3):
        folder = tmp_path / str(microbatch)
        changes = {"batch_size_train": 4, "microbatch": microbatch, "lr_anneal_steps": 5, "save_interval": 1}
        changes |= {"keep_checkpoints": 2, "resume_checkpoint": str(random_weights), "log_interval": 5}
        train(tiny(savedir=str(folder), **changes), set())
        runs[microbatch] = weights(folder, "model000005.pt")
        kept = sorted(path.name for path in folder.glob("*.pt"))
        assert kept == [f"{kind}{step:06d}.pt" for kind in ("ema_0.9999_", "model", "opt") for step in (4, 5)]
    start = torch.load(random_weights, weights_only=True)
    travelled = distance(runs[-1], start)
    assert travelled > 0
    for microbatch in (1, 3):
        assert distance(runs[microbatch], runs[-1]) <= 1e-3 * travelled


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(sum((one[key] - other[key]).double().square().sum() for key in one).sqrt())


def test_the_error_of_x_start_is_logged_with_the_validation(uninterrupted):
    for row in rows_of(uninterrupted):
        assert (row["val_x_start_mse"] == "") == (row["val_loss"] == "")
        assert row["val_loss"] == "" or 0 < float(row["val_x_start_mse"]) < 4


@pytest.mark.parametrize("flags", [{"prediction_type": "v_prediction"}, {"loss_weighting": "min_snr"}], ids=str)
def test_a_run_from_before_these_settings_existed_is_not_gone_on_with_otherwise(
    uninterrupted, tmp_path, tiny, random_weights, flags
):
    copy_checkpoint(uninterrupted, tmp_path, 8)
    path = tmp_path / "opt000008.pt"
    state = torch.load(path, weights_only=True)
    for name in ("prediction_type", "loss_weighting", "snr_gamma", "snr_floor"):
        del state["run"]["settings"][name]
    torch.save(state, path)
    with pytest.raises(UserError, match=f"{next(iter(flags))} was"):
        train(tiny(savedir=str(tmp_path), **RICH | {"lr_anneal_steps": 9} | flags), set())
    train(tiny(savedir=str(tmp_path), **RICH | {"lr_anneal_steps": 9}), set())
    assert rows_of(tmp_path)[-1]["step"] == "9"


def test_timesteps_that_are_dwelt_on_are_not_weighed_away(tmp_path, tiny, random_weights, monkeypatch):
    def trained(name: str) -> torch.Tensor:
        changes = {"schedule_sampler": "log-snr", "lr_anneal_steps": 1, "max_grad_norm": 0.0, "lr": 1e-2}
        train(tiny(savedir=str(tmp_path / name), resume_checkpoint=str(random_weights), **changes), set())
        state = torch.load(tmp_path / name / "opt000001.pt", weights_only=True)["optimizer"]["adamw"]["state"]
        return state[len(state) - 1]["exp_avg"]  # a tenth of the gradient

    as_drawn = trained("as drawn")
    assert torch.equal(trained("again"), as_drawn)
    monkeypatch.setattr(FixedSampler, "unbiased", True)
    assert not torch.equal(trained("weighed"), as_drawn)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_cond": False},
        {"no_instance": False},
        {"learn_sigma": False, "predict_xstart": True},
        {"prediction_type": "v_prediction", "loss_weighting": "min_snr", "snr_floor": 0.1},
        {"loss_weighting": "min_snr", "schedule_sampler": "loss-second-moment"},
        {"schedule_sampler": "logit-normal", "patch_size": 2, "attention_resolutions": "4"},
        {"image_channels": 1, "learn_sigma": False, "predict_xstart": True, "preview_steps": 2, "save_interval": 1},
        {"schedule_sampler": "log-snr", "lr_schedule": "cosine", "lr_warmup_steps": 2},
        {"use_kl": True, "noise_schedule": "linear"},
        {"use_kl": True, "prediction_type": "v_prediction"},
        {"precision": "bf16", "resblock_updown": False},
        {"rescale_timesteps": True, "rescale_learned_sigmas": True, "ema_warmup": False},
    ],
    ids=str,
)
def test_each_kind_of_model_trains(tmp_path, tiny, changes):
    train(tiny(savedir=str(tmp_path), lr_anneal_steps=2, log_interval=1, batch_size_train=2, **changes), set())
    (_, row) = rows_of(tmp_path)
    assert float(row["loss"]) > 0 and row["skipped_steps"] == "0"
    assert (row.get("vb", "") == "") == (changes.get("learn_sigma") is False or "use_kl" in changes)


def test_paths_of_object_storage_take_the_same_way(tmp_path, tiny, random_weights, pictures, monkeypatch):
    """Every path goes through blobfile here, as gs:// and az:// paths do; blobfile can do the same on a disk."""
    monkeypatch.setattr("guided_diffusion.runs.storage.is_remote", lambda path: True)
    common = {"savedir": str(tmp_path), "datadir": str(pictures), "save_interval": 2, "log_interval": 1}
    common |= {"resume_checkpoint": str(random_weights), "preview_steps": 1, "keep_checkpoints": 1}
    train(tiny(**common, lr_anneal_steps=2), set())
    assert [row["step"] for row in rows_of(tmp_path)] == ["1", "2"]
    train(tiny(**common, lr_anneal_steps=3), set())
    assert [row["step"] for row in rows_of(tmp_path)] == ["1", "2", "3"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model000003.pt", "ema_0.9999_000003.pt", "opt000003.pt", "preview_000002.png", "log.txt"} <= names
    assert "model000002.pt" not in names and any(name.startswith("events") for name in names)

"""Whose network a sampling job uses: checkpoints with and without settings, guidance, unconditional models."""

import json

import pytest
import torch
from sampled_images import assert_same_images, manifest, names, png

from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs.checkpoints import ema_name, plain_state_dict, write_settings, write_torch


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
    code, _, err = command(**flags | {"s": 2.0, "results_dir": tmp_path / "guided"})
    assert code == 2 and "--s 2 guides images towards their label maps, and this network sees none" in err
    assert not (tmp_path / "guided").exists()


def test_settings_of_the_loss_are_passed_over_as_help_says(command, complete, tmp_path):
    """This network predicts the noise, whose loss no floor goes with."""
    loss = {"loss_weighting": "min_snr", "snr_floor": 0.1, "snr_gamma": 0.0, "use_kl": True, "vb_weight": 0.5}
    assert command(**loss, schedule_sampler="log-snr", rescale_learned_sigmas=True)[0] == 0
    assert_same_images(complete, tmp_path / "results", 0)

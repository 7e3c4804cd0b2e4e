"""A run that starts from the weights of another trains what it was asked to, and says what it took."""

import shutil
from pathlib import Path

import pytest
import torch

from command import UserError
from config import Settings
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs.checkpoints import plain_state_dict, read_checkpoint, write_torch
from guided_diffusion.training.loop import train
from guided_diffusion.training.starting import parts, take_settings, take_weights, taken_settings


def trained_from(path: Path, folder: Path, tiny, **changes) -> tuple[dict[str, torch.Tensor], dict, str]:
    """Weights and settings after a training that learns nothing (at no learning rate), and its log."""
    asked = changes | {"resume_checkpoint": str(path), "savedir": str(folder), "lr_anneal_steps": 1, "lr": 0.0}
    train(tiny(**asked), set(asked) | {"img_size", "num_head_channels"})
    state = torch.load(folder / "opt000001.pt", weights_only=True)
    return (
        torch.load(folder / "model000001.pt", weights_only=True),
        state["run"]["settings"],
        (folder / "log.txt").read_text(),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"num_res_blocks": 2},
        {"num_classes": 7},
        {"img_size": 32, "attention_resolutions": "16"},
        {"prediction_type": "v_prediction"},
        {"class_cond": False},
        {"learn_sigma": False},
    ],
    ids=str,
)
def test_what_fits_is_taken_and_what_was_asked_for_is_trained(tmp_path, tiny, random_weights, changes):
    found, settings, log = trained_from(random_weights, tmp_path, tiny, **changes)
    start, own = torch.load(random_weights, weights_only=True), build_network(tiny(**changes)).state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in own.items()}
    fitting = [name for name in found if name in start and start[name].shape == found[name].shape]
    assert len(fitting) > 20 and all(torch.equal(found[name], start[name]) for name in fitting)
    all_of_them = len(fitting) == len(found) == len(start)
    assert (f"taken: {len(fitting)} of the {len(found)} tensors" in log) != all_of_them
    assert all_of_them or f"initialised: {len(found) - len(fitting)}" in log
    assert {name: settings[name] for name in changes} == changes


@pytest.mark.parametrize(
    "changes", [{"img_size": 32, "attention_resolutions": "16"}, {"prediction_type": "v_prediction"}], ids=str
)
@pytest.mark.parametrize("name", ["ema_0.9_000001.pt", "model000001.pt", ""])
def test_another_network_is_begun_from_weights_that_lie_beside_their_state(tmp_path, tiny, capsys, name, changes):
    """As the newest of a training's folder are: they are no run to go on with, and no refusal either."""
    train(tiny(savedir=str(tmp_path / "before"), ema_rate="0.9", lr_anneal_steps=1), set())
    _, settings, log = trained_from(tmp_path / "before" / name, tmp_path / "out", tiny, **changes)
    assert {name: settings[name] for name in changes} == changes
    assert f"starting at step 0 from the weights in {tmp_path / 'before'}" in log
    said = capsys.readouterr().err
    assert (f"--{next(iter(changes))} " in said and "is not what its training had" in said) == bool(name)
    assert ("trained to predict epsilon: they learn v_prediction" in log) == ("prediction_type" in changes)
    trained_from(tmp_path / "before" / name, tmp_path / "out", tiny, **changes)  # the same command again


def test_the_log_lists_what_the_checkpoint_decides(tmp_path, tiny):
    train(tiny(savedir=str(tmp_path / "before"), prediction_type="v_prediction", lr_anneal_steps=1), set())
    weights = tmp_path / "before" / "weights.pt"
    shutil.copy(tmp_path / "before" / "model000001.pt", weights)
    _, settings, log = trained_from(weights, tmp_path / "out", tiny)
    assert settings["prediction_type"] == "v_prediction"
    assert "settings of the network from the checkpoint: prediction_type v_prediction" in log


def test_attention_keeps_its_levels_at_another_size_and_what_the_checkpoint_decides_is_told(tmp_path, tiny):
    of_the_checkpoint = tiny(noise_schedule="linear")
    weights = plain_state_dict(build_network(of_the_checkpoint).state_dict(), of_the_checkpoint)
    write_torch(str(tmp_path), "a.pt", weights)
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    asked = Settings(img_size=32)
    taken = take_settings(asked, {"img_size"}, checkpoint)
    assert (taken.attention_resolutions, taken.channel_mult, taken.img_size) == ("16", "1,2", 32)
    told = taken_settings(taken, asked)
    assert "noise_schedule linear" in told and "num_channels 32" in told and "img_size" not in told
    assert len(take_weights(build_network(taken), checkpoint)) == 1  # all of it fits
    assert taken_settings(asked, asked) is None


@pytest.mark.parametrize(("theirs", "ours", "classes"), [(("a", "b"), (), 5), (("a", "b"), ("c",), 5), ((), (), 7)])
def test_classes_of_other_data_are_not_taken_over(tmp_path, tiny, theirs, ours, classes):
    of_the_checkpoint = tiny(num_classes=7, class_names=theirs)
    weights = plain_state_dict(build_network(of_the_checkpoint).state_dict(), of_the_checkpoint)
    write_torch(str(tmp_path), "a.pt", weights)
    asked = tiny(num_classes=5, class_names=ours)
    taken = take_settings(asked, set(), read_checkpoint(str(tmp_path / "a.pt")))
    assert (taken.num_classes, taken.class_names) == (classes, ours)


@pytest.mark.parametrize(
    ("theirs", "flag", "kind"),
    [
        ("v_prediction", {"predict_xstart": False}, "v_prediction"),  # which rules x_0 out, and nothing else
        ("sample", {"predict_xstart": False}, "epsilon"),
        ("epsilon", {"predict_xstart": True}, "sample"),
        ("v_prediction", {"prediction_type": "epsilon"}, "epsilon"),
        ("v_prediction", {}, "v_prediction"),
    ],
)
def test_a_flag_says_what_is_predicted_as_far_as_it_goes(tmp_path, tiny, theirs, flag, kind):
    of_the_checkpoint = tiny(prediction_type=theirs)
    write_torch(
        str(tmp_path), "a.pt", plain_state_dict(build_network(of_the_checkpoint).state_dict(), of_the_checkpoint)
    )
    taken = take_settings(tiny(**flag), set(flag), read_checkpoint(str(tmp_path / "a.pt")))
    assert (taken.prediction_type, taken.predict_xstart) == (kind, kind == "sample")


def test_what_the_checkpoint_leaves_without_effect_is_refused(tmp_path, tiny):
    train(tiny(savedir=str(tmp_path / "before"), learn_sigma=False, lr_anneal_steps=1), set())
    with pytest.raises(UserError, match=r"--vb_weight 5\.0 has no effect with --learn_sigma False"):
        trained_from(tmp_path / "before", tmp_path / "out", tiny, vb_weight=5.0)


def test_unconditional_weights_do_not_make_a_training_unconditional(tmp_path, tiny):
    """As OpenAI's published ones: the encoder is theirs, the modulation by labels is new."""
    network = build_network(tiny(class_cond=False))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.05)
    theirs = dict(network.state_dict())
    torch.save(theirs, tmp_path / "unconditional.pt")
    found, settings, log = trained_from(tmp_path / "unconditional.pt", tmp_path / "out", tiny)
    assert settings["class_cond"] is True and any("mlp_shared" in name for name in found)
    encoder = [name for name in theirs if name.startswith(("input_blocks", "time_embed"))]
    assert len(encoder) > 20 and all(torch.equal(found[name], theirs[name]) for name in encoder)
    assert "output_blocks.0.0 (" in next(line for line in log.splitlines() if "initialised: " in line)


def test_weights_of_which_nothing_fits_are_refused(tmp_path, tiny, random_weights):
    weights = {name: value.repeat(3, *[1] * (value.ndim - 1)) for name, value in torch.load(random_weights).items()}
    torch.save(weights, tmp_path / "other.pt")
    flags = {"num_channels": 32, "channel_mult": "1,2", "learn_sigma": True, "num_head_channels": 32}
    with pytest.raises(UserError, match="none of its .* tensors fits"):
        trained_from(tmp_path / "other.pt", tmp_path / "out", tiny, **flags)


def test_layers_are_counted_in_their_order():
    names = ["output_blocks.10.0.a", "output_blocks.2.1.b", "output_blocks.2.1.a", "middle_block.1.x", "time_embed.0.y"]
    assert parts(names) == "middle_block.1 (1), output_blocks.2.1 (2), output_blocks.10.0 (1), time_embed (1)"


def test_a_size_that_no_level_has_is_refused_and_none_is_told(tmp_path, tiny):
    with pytest.raises(UserError, match="no level has one of these sizes; name some of 16, 8, or say none"):
        train(tiny(savedir=str(tmp_path / "a"), attention_resolutions="4,2"), set())
    train(tiny(savedir=str(tmp_path / "b"), attention_resolutions="none", lr_anneal_steps=1), set())
    assert "attention at no level of [16, 8] pixels" in (tmp_path / "b/log.txt").read_text()
    names = torch.load(tmp_path / "b/model000001.pt", weights_only=True)
    assert [name for name in names if name.endswith("qkv.weight")] == ["middle_block.1.qkv.weight"]


@pytest.mark.parametrize(("size", "levels"), [(96, "96, 48, 24, 12"), (192, "192, 96, 48, 24, 12")])
def test_default_attention_at_odd_sizes_is_refused_with_the_sizes_there_are(tmp_path, tiny, size, levels):
    changes = {"img_size": size, "channel_mult": None, "attention_resolutions": "32,16,8", "savedir": str(tmp_path)}
    with pytest.raises(UserError, match=f"at img_size {size} no level .* name some of {levels}"):
        train(tiny(**changes), set())


def test_the_heads_of_the_middle_are_checked(tmp_path, tiny):
    changes = {"attention_resolutions": "16", "channel_mult": "2,1", "num_head_channels": 64, "savedir": str(tmp_path)}
    with pytest.raises(UserError, match="num_head_channels 64 does not divide the 32 channels"):
        train(tiny(**changes), set())


def test_a_schedule_that_ends_in_noise_is_not_trained_to_predict_it(tmp_path, tiny):
    common = {"savedir": str(tmp_path), "noise_schedule": "linear", "diffusion_steps": 20, "lr_anneal_steps": 1}
    with pytest.raises(UserError, match="diffusion_steps 20: this schedule ends in pure noise"):
        train(tiny(**common), set())
    train(tiny(**common, prediction_type="v_prediction"), set())


def test_many_steps_of_the_cosine_schedule_leave_enough_of_the_image(tmp_path, tiny, capsys):
    """alpha_bar ends at 1e-10 after 4000 (Nichol & Dhariwal 2021), so alpha at 1e-5: x_0 can be told."""
    common = {"noise_schedule": "cosine", "diffusion_steps": 4000, "lr_anneal_steps": 1}
    train(tiny(savedir=str(tmp_path / "all"), **common), set())
    assert "only these timesteps" not in capsys.readouterr().err
    train(tiny(savedir=str(tmp_path / "few"), timestep_respacing="50", **common), set())
    assert "with --timestep_respacing 50 only these timesteps are learned" in capsys.readouterr().err


def test_weights_that_would_not_be_read_are_refused(tmp_path, tiny, random_weights):
    """Of another file than the run in savedir began from, and of an earlier step than it has reached."""
    other = tmp_path / "other" / "weights.pt"
    other.parent.mkdir()
    other.write_bytes(random_weights.read_bytes() + b"more")
    out = tmp_path / "out"

    def run(steps, weights=""):
        settings = {"savedir": str(out), "save_interval": 1, "lr_anneal_steps": steps}
        train(tiny(resume_checkpoint=str(weights), **settings), {"resume_checkpoint"})

    run(2, random_weights)
    for steps in (2, 3):
        with pytest.raises(UserError, match="would not be read: the run in .* goes on from its own step 2"):
            run(steps, other)
    with pytest.raises(UserError, match="has gone on to step 2. To go back"):
        run(3, out / "model000001.pt")
    run(3, random_weights)
    run(4, out / "model000003.pt")  # as the published code is resumed
    run(5, out / "model000003.pt")  # the same command again
    assert (out / "model000005.pt").exists()
    run(6, random_weights)  # and the first one again
    run(6, shutil.copy(random_weights, tmp_path / "moved.pt"))  # the same weights under another name
    gone = tmp_path / "gone" / random_weights.parent.name / random_weights.name
    run(6, gone)  # and where they lay when all was elsewhere
    for name in ("average.pt", "no.pt", "model000009.pt", "ema_0.5_000006.pt"):
        if name == "average.pt":
            shutil.copy(other, out / name)
        with pytest.raises(UserError, match=f"{name} would not be read"):
            run(7, out / name)
    twin = tmp_path / "twin" / random_weights.parent.name / random_weights.name
    twin.parent.mkdir(parents=True)
    shutil.copy(out / "model000006.pt", twin)
    with pytest.raises(UserError, match="would not be read"):  # of the same name, but other weights
        run(7, twin)
    run(7, out)
    assert (out / "model000007.pt").exists()

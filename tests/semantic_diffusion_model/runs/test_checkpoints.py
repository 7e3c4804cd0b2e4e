"""What is read from a checkpoint, what is refused, and which settings come out."""

import dataclasses
import hashlib
import json
import os
import pickle

import pytest
import torch

from command import UserError
from config import MODEL_SETTINGS, Settings, settle_prediction
from guided_diffusion.network.from_settings import build_diffusion, build_network
from guided_diffusion.runs.checkpoint_shapes import settings_from_shapes
from guided_diffusion.runs.checkpoints import (
    ema_name,
    model_name,
    plain_state_dict,
    read_checkpoint,
    write_settings,
    write_torch,
)
from guided_diffusion.runs.network_settings import merge_settings


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch /tmp/this-must-not-appear",)


@pytest.fixture(scope="module")
def network(tiny):
    return build_network(tiny())


@pytest.fixture
def written(tmp_path, tiny, network):
    write_torch(str(tmp_path), model_name(10), plain_state_dict(network.state_dict(), tiny()))
    return tmp_path / "model000010.pt"


def test_a_checkpoint_is_a_plain_float32_state_dict_that_carries_its_settings(written, tiny, network):
    loaded = torch.load(written, weights_only=True)
    fresh = build_network(tiny())
    fresh.load_state_dict(loaded, strict=True)
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in loaded.values())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), network.parameters(), strict=True))
    checkpoint = read_checkpoint(str(written))
    assert (checkpoint.source, checkpoint.kind, checkpoint.step) == ("file", "model", 10)
    assert checkpoint.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()
    merged = merge_settings(Settings(), set(), checkpoint)
    assert {name: getattr(merged, name) for name in MODEL_SETTINGS} == {
        name: getattr(tiny(), name) for name in MODEL_SETTINGS
    }


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "epsilon"),
        ({"predict_xstart": True}, "sample"),
        ({"prediction_type": "sample"}, "sample"),
        ({"prediction_type": "v_prediction"}, "v_prediction"),
    ],
    ids=str,
)
def test_a_checkpoint_says_what_its_network_predicts_in_both_ways(tmp_path, tiny, network, changes, kind):
    write_torch(str(tmp_path), model_name(10), plain_state_dict(network.state_dict(), tiny(**changes)))
    merged = merge_settings(Settings(), set(), read_checkpoint(str(tmp_path / "model000010.pt")))
    assert (merged.prediction_type, merged.predict_xstart) == (kind, kind == "sample")
    assert build_diffusion(merged).prediction_type == kind


@pytest.mark.parametrize(("predict_xstart", "kind"), [(False, "epsilon"), (True, "sample")])
@pytest.mark.parametrize("where", ["file", "json"])
def test_checkpoints_that_say_predict_xstart_alone_keep_its_meaning(
    tmp_path, tiny, network, predict_xstart, kind, where
):
    """Older ones of ours, and the published train_test_config.json."""
    state_dict = plain_state_dict(network.state_dict(), tiny(predict_xstart=predict_xstart))
    if where == "file":
        del state_dict._metadata[""]["settings"]["prediction_type"]
    else:
        state_dict = dict(state_dict)
        tree = {"TRAIN": {"DIFFUSION": {"PREDICT_XSTART": predict_xstart}, "NUM_HEAD_CHANNELS": 32, "IMG_SIZE": 16}}
        (tmp_path / "train_test_config.json").write_text(json.dumps(tree))
    torch.save(state_dict, tmp_path / "model000010.pt")
    checkpoint = read_checkpoint(str(tmp_path / "model000010.pt"))
    assert checkpoint.source == where
    assert merge_settings(Settings(img_size=16), set(), checkpoint).prediction_type == kind
    other = "epsilon" if predict_xstart else "v_prediction"
    with pytest.raises(UserError, match=f"--prediction_type {other}: .* has {kind}"):
        merge_settings(Settings(img_size=16, prediction_type=other), {"prediction_type"}, checkpoint)


def test_the_settings_file_says_predict_xstart_as_the_published_one(tmp_path, tiny):
    for changes, expected in (({"prediction_type": "sample"}, True), ({"prediction_type": "v_prediction"}, False)):
        write_settings(str(tmp_path), settle_prediction(tiny(**changes), set(changes)))
        tree = json.loads((tmp_path / "train_test_config.json").read_text())
        assert tree["TRAIN"]["DIFFUSION"]["PREDICT_XSTART"] is expected


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"predict_xstart": True, "prediction_type": "v_prediction"}, ()),
        ({"predict_xstart": True, "prediction_type": "epsilon"}, ("predict_xstart", "prediction_type")),
        ({"predict_xstart": False, "prediction_type": "sample"}, ("predict_xstart", "prediction_type")),
    ],
    ids=str,
)
def test_flags_that_contradict_each_other_about_the_prediction_are_refused(tiny, changes, given):
    with pytest.raises(UserError, match="contradict each other"):
        settle_prediction(tiny(**changes), set(given))
    agreed = settle_prediction(tiny(predict_xstart=True, prediction_type="sample"), set(given))
    assert agreed.predict_xstart and agreed.prediction_type == "sample"


def test_the_same_content_is_the_same_file(tmp_path, tiny, network):
    for name in ("a.pt", "b.pt"):
        write_torch(str(tmp_path), name, plain_state_dict(network.state_dict(), tiny()))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_a_flag_that_disagrees_is_an_error_and_one_that_agrees_is_not(written, tiny):
    checkpoint = read_checkpoint(str(written))
    assert merge_settings(tiny(channel_mult="1, 2.0"), {"channel_mult"}, checkpoint).channel_mult == "1,2"
    with pytest.raises(UserError, match=r"--num_channels 64.*has 32"):
        merge_settings(tiny(num_channels=64), {"num_channels"}, checkpoint)
    assert merge_settings(tiny(num_channels=64), set(), checkpoint).num_channels == 32
    assert merge_settings(tiny(s=3.0), {"s"}, checkpoint).s == 3.0


def test_shapes_of_the_published_checkpoint(reference):
    shapes = json.loads((reference / "published_256_state_dict_shapes.json").read_text())
    state_dict = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    known = settings_from_shapes(state_dict, 256)
    default = Settings()
    assert known.pop("channel_mult") == ",".join(map(str, default.multipliers()))
    assert known == {name: getattr(default, name) for name in known}


@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_shapes_of_the_small_networks(reference, name):
    config = json.loads((reference / name / "unet_config.json").read_text())
    known = settings_from_shapes(torch.load(reference / name / "unet_state_dict_fp16.pt", weights_only=True), 32)
    sizes = ",".join(str(32 // factor) for factor in config["attention_resolutions"])
    assert known["attention_resolutions"] == sizes
    assert known["num_channels"] == config["model_channels"]
    assert known["channel_mult"] == ",".join(map(str, config["channel_mult"]))
    for same in ("num_res_blocks", "num_classes", "resblock_updown", "use_scale_shift_norm"):
        assert known[same] == config[same], same


VARIANTS = [
    {"learn_sigma": False},
    {"class_cond": False},
    {"no_instance": False},
    {"patch_size": 2, "attention_resolutions": "4", "no_instance": False},
    {"patch_size": 4, "attention_resolutions": "2", "image_channels": 1},
    {"image_channels": 1},
    {"channel_mult": "1", "attention_resolutions": "16"},
    {"channel_mult": "1,1,2", "num_res_blocks": 3, "attention_resolutions": "16,4"},
    {"num_channels": 64, "channel_mult": "0.5,1", "attention_resolutions": "none"},
    {"resblock_updown": False, "use_scale_shift_norm": False},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_shapes_tell_what_was_built(tiny, changes):
    settings = tiny(**changes)
    with torch.device("meta"):
        state_dict = build_network(settings).state_dict()
    known = settings_from_shapes(state_dict, 16, settings.no_instance)
    expected = {name: getattr(settings, name) for name in known}
    if "channel_mult" in changes and changes["channel_mult"] == "1":
        expected.pop("resblock_updown", None)
    assert {name: known[name] for name in expected} == expected


def test_a_published_folder_has_a_json_beside_it(tmp_path, tiny, network):
    torch.save(dict(network.state_dict()), tmp_path / "ema_0.9999_050000.pt")
    write_settings(str(tmp_path), tiny(noise_schedule="linear", num_channels=999))
    checkpoint = read_checkpoint(str(tmp_path))
    assert (checkpoint.source, checkpoint.kind, checkpoint.step) == ("json", "ema", 50000)
    merged = merge_settings(Settings(), set(), checkpoint)
    assert merged.noise_schedule == "linear"
    assert merged.num_head_channels == 32
    assert merged.num_channels == 32  # the tensors are right where the JSON is wrong


def test_without_settings_the_shapes_and_flags_tell(tmp_path, tiny, network):
    torch.save(dict(network.state_dict()), tmp_path / "some.pt")
    checkpoint = read_checkpoint(str(tmp_path / "some.pt"))
    assert checkpoint.source == "shapes"
    merged = merge_settings(tiny(num_channels=256, channel_mult=None), {"img_size", "num_head_channels"}, checkpoint)
    assert (merged.num_channels, merged.channel_mult, merged.attention_resolutions) == (32, "1,2", "8")
    with pytest.raises(UserError, match="--num_res_blocks 2"):
        merge_settings(tiny(num_res_blocks=2), {"img_size", "num_res_blocks"}, checkpoint)


@pytest.mark.parametrize(
    ("rates", "first"),
    [("0.999,0.9999", "0.999"), ("0.9999,0.999", "0.9999"), ("w0.05,w0.1", "w0.05"), ("w0.1,0.9", "0.9")],
)
def test_of_several_averages_a_folder_gives_the_one_that_was_validated(tmp_path, tiny, network, rates, first):
    settings = tiny(ema_rate=rates)
    write_settings(str(tmp_path), settings)
    for rate in settings.ema_rates():
        write_torch(str(tmp_path), ema_name(rate, 20), plain_state_dict(network.state_dict(), settings))
    assert f"ema_{first}_000020.pt: the newest averaged weights" in read_checkpoint(str(tmp_path)).note


def test_a_folder_gives_its_newest_averaged_weights(tmp_path, tiny, network):
    plain = plain_state_dict(network.state_dict(), tiny())
    for name in (model_name(30), ema_name(0.99, 20), ema_name(0.9999, 20), ema_name(0.9999, 3)):
        write_torch(str(tmp_path), name, plain)
    checkpoint = read_checkpoint(str(tmp_path))
    assert os.path.basename(checkpoint.path) == "ema_0.9999_000020.pt"
    assert "ema_0.9999_000020.pt: the newest averaged weights" in checkpoint.note
    for name in os.listdir(tmp_path):
        if name.startswith("ema"):
            (tmp_path / name).unlink()
    assert read_checkpoint(str(tmp_path)).kind == "model"


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path, network, share, zipped):
    torch.save(network.state_dict(), tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pt").read_bytes()
    read_checkpoint(str(tmp_path / "whole.pt"))
    (tmp_path / "cut.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="truncated"):
        read_checkpoint(str(tmp_path / "cut.pt"))


def test_files_that_are_something_else(tmp_path, network):
    optimizer = torch.optim.AdamW(network.parameters())
    torch.save(optimizer.state_dict(), tmp_path / "opt000010.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, words in {
        "opt000010.pt": "state of an optimizer",
        "other.pt": "no weights",
        "tensor.pt": "no weights",
        "text.pt": "no checkpoint",
        "absent.pt": "does not exist",
    }.items():
        with pytest.raises(UserError, match=words):
            read_checkpoint(str(tmp_path / name))
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_checkpoint(str(tmp_path))


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path):
    torch.save({"input_blocks.0.0.weight": RunsCode()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UserError, match="could run code"):
            read_checkpoint(str(tmp_path / name))
    assert not os.path.exists("/tmp/this-must-not-appear")


def test_settings_that_no_network_can_have_are_found_when_merging(written, tiny):
    checkpoint = read_checkpoint(str(written))
    impossible = dataclasses.replace(checkpoint, settings=checkpoint.settings | {"num_head_channels": 48})
    with pytest.raises(UserError, match="num_head_channels 48"):
        merge_settings(tiny(), set(), impossible)

"""Weights as other trainers save them, of both networks; a condition that can be read in two ways."""

import json

import pytest
import torch

from checkpoint import read_checkpoint as read_segmentation
from command import UserError
from config import Settings
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs.checkpoints import plain_state_dict, read_checkpoint
from guided_diffusion.runs.network_settings import merge_settings
from model import build_camus_unet

SMALL = {"img_size": 16, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "attention_resolutions": "8"}
SMALL |= {"num_head_channels": 32}
FORMS = {
    "plain": lambda weights: weights,
    "module.": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "_orig_mod.": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "module._orig_mod.": lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}},
    "ema before model": lambda weights: {"model": {k: v + 1 for k, v in weights.items()}, "ema": weights},
    "state_dict, module.": lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
}


@pytest.fixture(scope="module")
def diffusion_weights() -> dict[str, torch.Tensor]:
    return dict(build_network(Settings(**SMALL)).state_dict())


@pytest.mark.parametrize("form", FORMS)
def test_wrapped_and_prefixed_weights_load_in_both_networks(form, diffusion_weights, tmp_path, table):
    segmentation_weights = dict(build_camus_unet(4).state_dict())
    for name, weights in (("diffusion", diffusion_weights), ("segmentation", segmentation_weights)):
        path = tmp_path / f"{name}.pt"
        torch.save(FORMS[form](weights), path)
        found = read_checkpoint(str(path)).state_dict if name == "diffusion" else read_segmentation(path).weights
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], value) for key, value in weights.items())
        table("Weights", form, name, "read")


def test_the_settings_of_ours_survive_a_wrapper(diffusion_weights, tmp_path):
    ours = plain_state_dict(diffusion_weights, Settings(**SMALL, noise_schedule="linear"))
    torch.save({"ema": ours}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    assert checkpoint.source == "file" and checkpoint.settings["noise_schedule"] == "linear"


def test_what_is_wrapped_but_no_weights_is_refused(tmp_path):
    itself: dict = {}
    itself["model"] = itself
    others = {"model": {"a": 1}}, {"state_dict": {}}, {"ema": {"model": {"x": torch.ones(1)}}}, {"module": 3}
    for content in (itself, *others):
        torch.save(content, tmp_path / "a.pt")
        for read in (lambda: read_checkpoint(str(tmp_path / "a.pt")), lambda: read_segmentation(tmp_path / "a.pt")):
            with pytest.raises(UserError) as caught:
                read()
            assert "\n" not in str(caught.value)


def test_an_edge_channel_is_not_taken_for_a_class(tmp_path):
    """Shapes alone do not tell 6 classes from 5 and the edges between instances."""
    network = build_network(Settings(**SMALL, no_instance=False))
    torch.save(dict(network.state_dict()), tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    flags = {"img_size", "num_head_channels"}
    with pytest.raises(UserError, match="6 channels: either 6 classes .* or 5 and the edges"):
        merge_settings(Settings(**SMALL), flags, checkpoint)
    with_edges = merge_settings(Settings(**SMALL, no_instance=False), flags | {"no_instance"}, checkpoint)
    assert (with_edges.num_classes, with_edges.no_instance) == (5, False)
    six = merge_settings(Settings(**SMALL, num_classes=6), flags | {"num_classes"}, checkpoint)
    assert (six.num_classes, six.no_instance) == (6, True)
    tree = {"DATASETS": {"NO_INSTANCE": False, "IMG_SIZE": 16}, "TRAIN": {"NUM_HEAD_CHANNELS": 32}}
    (tmp_path / "train_test_config.json").write_text(json.dumps(tree))
    told = merge_settings(Settings(), set(), read_checkpoint(str(tmp_path / "a.pt")))
    assert (told.num_classes, told.no_instance) == (5, False)

"""Values of the wrong type or range in the segmentation's checkpoints and states: one line, exit 2."""

import copy
import math

import numpy as np
import pytest
import torch
from launching import DEEP

from command import UserError

PROMISE = "one line, exit 2, nothing written"


def segmentation_network():
    from model import Architecture, build_network

    architecture = Architecture("unet", 4, "resnet18", (16, 8))
    return build_network(architecture), architecture


WRONG_DESCRIPTIONS = [
    {"architecture": value} for value in (None, 3, {}, {"model_name": "unet"}, {"model_name": "x", "num_classes": 4})
]
WRONG_DESCRIPTIONS += [{name: value} for name in ("mean", "std") for value in (math.nan, math.inf, "x", [])]
WRONG_DESCRIPTIONS += [{"img_size": value} for value in (2**70, 0, "x", DEEP)] + [{"std": 0.0}]
WRONG_DESCRIPTIONS += [{"architecture": {"model_name": "unet", "num_classes": 4, "decoder_channels": [10**10]}}]


def test_what_segmentation_checkpoints_say_of_themselves(tmp_path, survived):
    from checkpoint import ENTRY, read_checkpoint, save_model

    survived("wrong values in a checkpoint", PROMISE, len(WRONG_DESCRIPTIONS))
    network, architecture = segmentation_network()
    good = {"mean": 0.2, "std": 0.1, "img_size": 64}
    save_model(tmp_path / "good.pth", network, architecture, good)
    read = read_checkpoint(tmp_path / "good.pth")
    assert (read.architecture, read.description) == (architecture, good)
    content = torch.load(tmp_path / "good.pth", weights_only=True)
    for wrong in WRONG_DESCRIPTIONS:
        content._metadata[ENTRY] = good | {"architecture": architecture.as_dict()} | wrong
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(UserError, match="what it says of itself") as caught:
            read_checkpoint(tmp_path / "bad.pth")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_state_of_a_segmentation(tmp_path, survived):
    from dataset import CaseSet
    from run_state import Run
    from settings import TrainSettings

    network, architecture = segmentation_network()
    case_set = CaseSet([], 64, np.ones(256), None, "digest")
    settings = TrainSettings(data_dir="x", output_dir=tmp_path, gpu="cpu")

    def new_run() -> Run:
        return Run(network, architecture, settings, {"training": case_set, "validation": case_set})

    run = new_run()
    network(torch.zeros(1, 1, 64, 64)).sum().backward()  # the encoder is deeper than the decoder: not all take part
    run.optimizer.step()
    assert 0 < len(run.optimizer.state) < len(list(network.parameters()))
    values = {"loss": 1.0, "dice_mean": 0.5, "val_loss": 1.0, "val_dice_mean": 0.5}
    run.progress.log.append({"epoch": 1, **values, "test_loss": "", "test_dice_mean": ""})
    run.save_last()
    again = new_run()
    again.resume()
    assert again.progress == run.progress
    good = torch.load(tmp_path / "last.pth", weights_only=True)
    wrong = [{name: value} for name in good for value in (None, 3, {"x": DEEP})]
    moments = good["optimizer"]["state"]
    for name, value in (("exp_avg", torch.ones(3)), ("exp_avg_sq", moments[0]["exp_avg_sq"] * math.nan), ("step", "x")):
        wrong.append({"optimizer": {"state": moments | {0: moments[0] | {name: value}}}})
    for name, value in (("log", []), ("log", [{"epoch": "x"}]), ("best_epoch", -1), ("best_dice", math.nan)):
        wrong.append({"progress": good["progress"] | {name: value}})
    survived("wrong values in a state", PROMISE, len(wrong))
    for change in wrong:
        torch.save(copy.deepcopy(good) | change, tmp_path / "last.pth")
        with pytest.raises(UserError, match=r"last\.pth") as caught:
            new_run().resume()
        assert len(str(caught.value)) < 800, change

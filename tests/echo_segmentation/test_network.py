"""Networks and checkpoints: the published architecture, its two forms on disk, and ours that describes itself."""

import numpy as np
import pytest
import torch

from checkpoint import load_weights, read_checkpoint, save_model
from command import UserError
from model import Architecture, build_network, check_size

UNET = Architecture("unet", 4, "resnet18", (16, 8, 8))


@pytest.mark.parametrize("form", ["", "compiled_"])
def test_published_checkpoint_gives_the_published_logits(reference, form):
    path = reference / f"segmentation_unet_{form}state_dict_fp16.pt"
    checkpoint = read_checkpoint(path)
    assert checkpoint.architecture == Architecture("camus-unet", 4)
    network = build_network(checkpoint.architecture).eval()
    load_weights(network, checkpoint, path)
    assert sum(p.numel() for p in network.parameters()) == 664_282
    golden = np.load(reference / "segmentation_unet_forward.npz")
    with torch.inference_mode():
        logits = network(torch.from_numpy(golden["x"]).float())
    assert np.abs(logits.numpy() - golden["logits"]).max() <= 1e-3


def test_our_checkpoint_describes_itself_and_stays_a_state_dict(tmp_path):
    network = build_network(UNET)
    save_model(tmp_path / "model.pth", network, UNET, {"mean": 0.25, "labels": ["a", "b"]})
    plain = torch.load(tmp_path / "model.pth", weights_only=True)
    build_network(UNET).load_state_dict(plain, strict=True)
    checkpoint = read_checkpoint(tmp_path / "model.pth")
    assert checkpoint.architecture == UNET
    assert checkpoint.description == {"mean": 0.25, "labels": ["a", "b"]}
    for name, tensor in network.state_dict().items():
        assert torch.equal(checkpoint.weights[name], tensor), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "not a checkpoint"),
        ({"a": 1}, "holds no weights: a is no plain tensor"),
        ({"network": {}, "settings": {}}, "take model.pth"),
        ({"layer.weight": torch.zeros(2)}, "neither written by runner.py nor a published checkpoint"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content, message):
    path = tmp_path / "file.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=message):
        read_checkpoint(path)


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match="not a checkpoint of tensors"):
        read_checkpoint(tmp_path / "module.pth")


def test_weights_of_another_shape_are_refused(tmp_path):
    save_model(tmp_path / "model.pth", build_network(UNET), UNET, {"mean": 0})
    other = build_network(Architecture("unet", 4, "resnet18", (32, 8, 8)))
    with pytest.raises(UserError, match=r"unet, does not fit the network: \d+ tensors differ"):
        load_weights(other, read_checkpoint(tmp_path / "model.pth"), tmp_path / "model.pth")


@pytest.mark.parametrize(("size", "fits"), [(256, True), (384, True), (128, False), (320, False)])
def test_sizes_of_the_published_network(size, fits):
    architecture = Architecture("camus-unet", 4)
    network = build_network(architecture)
    if not fits:
        with pytest.raises(UserError, match="multiples of 128 from 256 up"):
            check_size(network, architecture, size)
        return
    check_size(network, architecture, size)
    assert network(torch.zeros(1, 1, size, size)).shape == (1, 4, size, size)


def test_sizes_of_the_unet():
    network = build_network(UNET)
    check_size(network, UNET, 16)
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 4, 16, 16)  # a batch of one trains at the least size too
    for size in (8, 20):
        with pytest.raises(UserError, match="multiples of 8 from 16 up"):
            check_size(network, UNET, size)


def test_an_encoder_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="--encoder-name resnet17"):
        build_network(Architecture("unet", 4, "resnet17", (16, 8, 8)))

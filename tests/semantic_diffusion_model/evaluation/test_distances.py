"""Distances of features against closed forms, and the networks that make the features."""

import json

import numpy as np
import pytest
import torch

from command import UserError
from guided_diffusion.evaluation import distances, features
from guided_diffusion.evaluation.entries import as_json
from guided_diffusion.evaluation.report import distances_table


def test_frechet_distance_of_two_gaussians():
    generator = np.random.default_rng(0)
    scales = np.array([1.0, 2.0, 3.0])
    first = generator.normal(size=(40_000, 3))
    second = generator.normal(size=(40_000, 3)) * scales + [1.0, 0.0, 2.0]
    expected = 1 + 4 + ((scales - 1) ** 2).sum()
    assert distances.frechet(first, second) == pytest.approx(expected, rel=0.02)


def test_a_cloud_against_itself():
    cloud = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    assert distances.frechet(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert distances.kernel(cloud, cloud, 0) <= 0  # unbiased: its own diagonal is left out
    assert distances.precision_recall(cloud, cloud) == (1, 1)


def test_kernel_distance_of_shifted_clouds_is_seen_and_of_equal_ones_about_nothing():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 800, 8))
    alike, apart = distances.kernel(first, second, 0), distances.kernel(first, second + 0.5, 0)
    assert abs(alike) < 0.01 < 0.2 < apart


def test_precision_and_recall_tell_a_narrow_cloud_from_a_wide_one():
    generator = np.random.default_rng(0)
    real, narrow = generator.normal(size=(1000, 2)), 0.2 * generator.normal(size=(1000, 2))
    precision, recall = distances.precision_recall(narrow, real)
    assert precision > 0.95 and recall < 0.6
    assert distances.precision_recall(real + 100, real) == (0, 0)


def cloud(values: np.ndarray, frames: int = 2) -> distances.Cloud:
    return distances.Cloud(values.astype(np.float32), [f"p{i // frames}" for i in range(len(values))])


def test_equal_clouds_are_within_the_yardstick_and_shifted_ones_outside():
    generator = np.random.default_rng(0)
    real, same, other = generator.normal(size=(3, 400, 4))
    within = distances.compare_clouds(cloud(real), cloud(same), 0)
    assert within["frechet"]["equal_numbers"] < 2 * within["frechet"]["yardstick"]
    assert not within["enough_images"] and within["images_of_a_half"] == 200
    outside = distances.compare_clouds(cloud(real), cloud(other + 1), 0)
    assert outside["frechet"]["outside"] and outside["kernel"]["outside"]
    assert outside["frechet"]["all_images"] == pytest.approx(4, rel=0.2)


def of_patients(real: np.ndarray, *frames: int) -> distances.Cloud:
    """As many frames of each patient."""
    return distances.Cloud(real.astype(np.float32), [f"p{i}" for i, count in enumerate(frames) for _ in range(count)])


def test_halves_of_one_image_are_left_out(recwarn):
    real, made = np.random.default_rng(0).normal(size=(2, 10, 4))
    some = distances.compare_clouds(of_patients(real, 8, 1, 1), cloud(made), 0)
    none = distances.compare_clouds(of_patients(real, 9, 1), cloud(made), 0)
    assert (some["images_of_a_half"], none["images_of_a_half"]) == (2, 1)
    for name in ("frechet", "kernel"):
        assert np.isfinite([some[name]["equal_numbers"], some[name]["yardstick"], *some[name]["interval"]]).all()
        assert np.isnan([none[name]["equal_numbers"], none[name]["yardstick"], *none[name]["interval"]]).all()
        assert np.isfinite(none[name]["all_images"]) and none[name]["outside"] is None
    assert not list(recwarn)


def test_a_yardstick_that_is_not_there_is_null_and_said():
    real, made = np.random.default_rng(0).normal(size=(2, 10, 4))
    found = {"encoder": distances.compare_clouds(of_patients(real, 9, 1), cloud(made), 0), "inception": None}
    frechet = json.loads(as_json(found))["encoder"]["frechet"]
    assert frechet["yardstick"] is None and frechet["equal_numbers"] is None and frechet["interval"] == [None, None]
    assert frechet["outside"] is None
    assert distances_table(found).count("not judged: halves of one image") == 2


def test_features_are_standardised_by_the_real_ones():
    generator = np.random.default_rng(0)
    real = generator.normal(5, 3, (500, 4)).astype(np.float32)
    real[:, 2] = 7
    first, second = distances.standardised(real, real + 3)
    assert first.shape == (500, 3)
    assert first.std(0) == pytest.approx(1, abs=1e-3) and (second - first).mean() == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    """A model.pth as echo_segmentation writes it, and its network."""
    from checkpoint import save_model
    from model import Architecture, build_network

    torch.manual_seed(0)
    architecture = Architecture("unet", 4, "resnet18", (64, 48, 32, 16, 8))
    network = build_network(architecture).eval()
    path = tmp_path_factory.mktemp("segmentation") / "model.pth"
    save_model(path, network, architecture, {"mean": 0.2, "std": 0.1, "img_size": 64})
    return path, network


def test_the_encoder_is_the_one_of_the_segmentation(segmentation):
    path, network = segmentation
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64)).astype(np.uint8)
    found = features.read_encoder(str(path), torch.device("cpu"))(images)
    grey = (torch.from_numpy(images)[:, None].float() / 255 - 0.2) / 0.1
    with torch.no_grad():
        expected = network.encoder(grey)[-1].mean((2, 3)).numpy()
    assert found.shape == (3, 512) and found == pytest.approx(expected, abs=1e-5)


def test_images_of_another_size_are_brought_to_that_of_the_encoder(segmentation):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    encoder = features.read_encoder(str(segmentation[0]), torch.device("cpu"))
    halved = images[:, ::2, ::2]
    assert encoder(images) == pytest.approx(encoder(halved), abs=1e-4)


@pytest.mark.parametrize("what", ["missing", "text", "other", "nan"])
def test_a_file_that_is_no_segmentation_is_refused(segmentation, tmp_path, what):
    path = tmp_path / "model.pth"
    if what == "text":
        path.write_text("weights")
    elif what == "other":
        torch.save({"a": torch.ones(2)}, path)
    elif what == "nan":
        state = torch.load(segmentation[0], weights_only=True)
        state["encoder.conv1.weight"][0, 0, 0, 0] = float("nan")
        torch.save(state, path)
    with pytest.raises(UserError, match="model.pth"):
        features.read_encoder(str(path), torch.device("cpu"))


def test_inception_takes_its_weights_from_a_file_and_refuses_others(tmp_path, monkeypatch):
    built = []
    original = torch.nn.Module.load_state_dict
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, *_, **__: built.append(self))
    torch.save({"a": torch.ones(1)}, tmp_path / "any.pth")
    features.read_inception(str(tmp_path / "any.pth"), torch.device("cpu"))  # only to learn the names and shapes
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", original)
    with pytest.raises(UserError, match="not the Inception weights"):
        features.read_inception(str(tmp_path / "any.pth"), torch.device("cpu"))
    torch.save(built[0].state_dict(), tmp_path / "inception.pth")
    network = features.read_inception(str(tmp_path / "inception.pth"), torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    assert network(images).shape == (2, 2048)
    assert not np.array_equal(*network(images))

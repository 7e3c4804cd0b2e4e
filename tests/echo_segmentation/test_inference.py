"""Class probabilities: normalised, averaged with those of the mirror image, without stray parts."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from command import UserError
from dataset import CaseSet
from devices import compile_for, memory_of
from inference import Predictor, predict, without_stray_parts
from loader import make_loader
from losses import make_loss
from settings import TrainSettings

CPU = torch.device("cpu")
MEAN, STD = 0.3, 0.2


class Shifted(nn.Module):
    """Logits (0, grey, grey of the left neighbour): a network that is not symmetric."""

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        left = nn.functional.pad(grey, (1, 0))[..., :-1]
        return torch.cat([torch.zeros_like(grey), grey, left], dim=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 12), dtype=np.uint8))


def softmax_by_hand(images: torch.Tensor, neighbour: int) -> np.ndarray:
    """What `Shifted` says; `neighbour` -1: of the pixel to the left, 1: to the right."""
    grey = (images.numpy() / 255 - MEAN) / STD
    beside = np.zeros_like(grey)
    beside[..., max(-neighbour, 0) : grey.shape[-1] - max(neighbour, 0)] = (
        grey[..., :-1] if neighbour < 0 else grey[..., 1:]
    )
    exponentials = np.exp(np.stack([np.zeros_like(grey), grey, beside], axis=1))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_probabilities_are_those_of_the_image_or_the_mean_with_its_mirror_image(images):
    plain = Predictor(Shifted(), MEAN, STD, CPU)(images)
    assert np.allclose(plain, softmax_by_hand(images, -1), atol=1e-6)
    averaged = Predictor(Shifted(), MEAN, STD, CPU, test_time_augmentation=True)(images)
    assert np.allclose(averaged, (softmax_by_hand(images, -1) + softmax_by_hand(images, 1)) / 2, atol=1e-6)


def test_a_set_is_predicted_as_its_images_are_and_its_loss_is_the_cross_entropy(images):
    labels = np.random.default_rng(1).integers(0, 3, images.shape, dtype=np.uint8)
    case_set = CaseSet([None] * len(images), 0, np.zeros(256), (images.numpy(), labels))
    predictor, seen = Predictor(Shifted(), MEAN, STD, CPU), {}
    loader = make_loader(case_set, 2, CPU, num_workers=0, pin_memory=False)
    found = predict(predictor, loader, nn.functional.cross_entropy, each=seen.__setitem__)
    expected = softmax_by_hand(images, -1)
    assert list(seen) == [0, 1, 2, 3, 4]
    assert np.allclose(np.stack(list(seen.values())), expected, atol=1e-6)
    assert np.array_equal(found.labels, expected.argmax(1))
    assert np.array_equal(found.reference, labels)
    chosen = np.take_along_axis(expected, labels[:, None], axis=1)
    assert found.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["ce", "dice_ce"])
def test_the_loss_of_a_set_knows_neither_size_nor_order_of_its_batches(images, name):
    """It is the mean of what each image has by itself; the soft Dice of a batch would be another number in each."""
    labels = np.random.default_rng(1).integers(0, 3, images.shape, dtype=np.uint8)
    labels[0], labels[1] = 0, 1  # images that lack classes
    predictor, loss = Predictor(Shifted(), MEAN, STD, CPU), make_loss(name)
    logits = torch.from_numpy(softmax_by_hand(images, -1)).log()
    alone = [loss(logits[i : i + 1], torch.from_numpy(labels[i : i + 1]).long()).item() for i in range(len(images))]
    for batch_size, order in ((1, slice(None)), (2, slice(None)), (5, slice(None)), (2, slice(None, None, -1))):
        arrays = (np.ascontiguousarray(images.numpy()[order]), np.ascontiguousarray(labels[order]))
        loader = make_loader(CaseSet([None] * len(images), 0, np.zeros(256), arrays), batch_size, CPU, 0, False)
        assert predict(predictor, loader, loss).loss == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize(("name", "beside"), [("ce", 0), ("dice_ce", 0.5)])
def test_the_loss_of_a_network_that_is_surely_wrong_has_no_upper_end(images, name, beside, averaged):
    """Its true class is 1000 less likely, in the logarithm: as a number of 32 bits that probability is 0."""

    def diverged(grey: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(grey, 1000), torch.zeros_like(grey)], dim=1)

    network = nn.Module()
    network.forward = diverged
    case_set = CaseSet([None] * len(images), 0, np.zeros(256), (images.numpy(), np.ones(images.shape, np.uint8)))
    predictor = Predictor(network, MEAN, STD, CPU, test_time_augmentation=averaged)
    found = predict(predictor, make_loader(case_set, 2, CPU, 0, False), make_loss(name))
    assert found.loss == pytest.approx(1000 + beside) and not found.labels.any()


def as_probabilities(labels: np.ndarray, second: np.ndarray, classes: int = 4) -> torch.Tensor:
    """(1, classes, height, width): 0.6 for `labels`, 0.3 for the `second` choice, the rest for the others."""
    rest = np.full((classes, *labels.shape), 0.1 / (classes - 2))
    np.put_along_axis(rest, labels[None], 0.6, axis=0)
    np.put_along_axis(rest, second[None], 0.3, axis=0)
    return torch.from_numpy(rest)[None]


def test_stray_parts_go_to_the_next_likely_class_and_the_rest_stays():
    labels = np.zeros((20, 20), np.int64)
    labels[2:10, 2:10], labels[4:8, 4:8] = 2, 1
    expected = labels.copy()
    second = np.where(labels == 0, 3, 0)
    labels[3, 3], second[3, 3], expected[3, 3] = 1, 2, 2  # a speck of cavity in the wall, which is the wall's
    labels[15:18, 15:18], second[15:18, 15:18] = 1, 2  # cavity far away: nor may it become a second wall
    labels[8, 8] = 1  # touches the cavity at no side, only the corner of its own wall
    second[8, 8], expected[8, 8] = 2, 2
    probabilities = as_probabilities(labels, second)
    cleaned = without_stray_parts(probabilities)
    found = cleaned.argmax(1)[0].numpy()
    far = np.zeros_like(labels, bool)
    far[15:18, 15:18] = True
    assert np.array_equal(found[~far], expected[~far])
    assert np.isin(found[far], [0, 3]).all()
    kept = torch.from_numpy(labels == expected)[None, None] & torch.from_numpy(~far)
    assert torch.equal(cleaned * kept, probabilities * kept)
    assert torch.equal(without_stray_parts(cleaned), cleaned)


def test_each_class_is_in_one_part_at_most_whatever_the_network_says():
    torch.manual_seed(0)
    noise = nn.functional.avg_pool2d(torch.randn(6, 4, 40, 40), 5, stride=1).mul(8).softmax(1)
    assert max(ndimage.label(noise.argmax(1)[0].numpy() == c)[1] for c in (1, 2, 3)) > 1
    for labels in without_stray_parts(noise).argmax(1).numpy():
        assert all(ndimage.label(labels == c)[1] <= 1 for c in (1, 2, 3))


def no_compiler(*_):
    raise RuntimeError("Failed to find C compiler.\nmore of it")


@pytest.mark.parametrize("compiling", [no_compiler, lambda network: no_compiler], ids=["at once", "at its first use"])
def test_a_network_that_cannot_be_compiled_works_as_it_is(images, monkeypatch, capsys, compiling):
    monkeypatch.setattr(torch, "compile", compiling)
    network = compile_for(torch.device("cuda"), Shifted())
    grey = images[:, None].float()
    for _ in range(2):
        assert torch.equal(network(grey), Shifted()(grey))
    said = capsys.readouterr().err
    assert said.count("warning: the network is not compiled (Failed to find C compiler.)") == said.count("\n") == 1


def test_a_network_is_compiled_for_a_gpu_alone(images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: lambda grey: network(grey) + 1)
    grey, network = images[:, None].float(), Shifted()
    assert torch.equal(compile_for(torch.device("cuda"), network)(grey), network(grey) + 1)
    assert compile_for(CPU, network) is network


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("size", "mend"), [(16, "give a smaller --batch-size"), (1, "give a smaller --img-size")])
def test_too_little_memory_is_told_in_one_line(monkeypatch, size, mend, full):
    def too_large(network):
        raise full

    monkeypatch.setattr(torch, "compile", too_large)
    settings = TrainSettings(data_dir="x", batch_size=size)
    with pytest.raises(UserError, match=rf"too small for --batch-size {size} \(.+\): {mend}"), memory_of(settings):
        compile_for(torch.device("cuda"), Shifted())(torch.zeros(1, 1, 8, 8))

"""A network of patches is a plain network of folded images and folded labels; its settings travel as all others do."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from command import UserError
from config import Settings
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.runs import distributed
from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.runs.network_settings import merge_settings
from guided_diffusion.sampling.job import run_sampling
from guided_diffusion.training.loop import train

CLASSES = 5


def network(channels: int, out_channels: int, classes: int, **changes) -> UNetModel:
    model = UNetModel(
        image_size=16,
        in_channels=channels,
        model_channels=32,
        out_channels=out_channels,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 2),
        num_classes=classes,
        num_head_channels=32,
        use_scale_shift_norm=True,
        resblock_updown=True,
        use_new_attention_order=True,
        **changes,
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return model


@pytest.mark.parametrize("mode", ["dense", "table"])
@pytest.mark.parametrize(("patch", "with_edges", "with_drop"), [(2, False, False), (2, True, True), (4, False, True)])
def test_a_network_of_patches_is_a_plain_one_of_folded_pictures(patch, with_edges, with_drop, mode):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (2, 8, 8)).repeat(4, 1).repeat(4, 2)[:, 1:-3, 2:-2]  # edges inside patches
    labels = np.pad(labels, ((0, 0), (0, 4), (0, 4)), mode="edge")
    edges = rng.random(labels.shape) < 0.1 if with_edges else None
    dropped = np.array([False, True]) if with_drop else None
    maps = F.one_hot(torch.from_numpy(labels), CLASSES).permute(0, 3, 1, 2).float()
    if edges is not None:
        maps = torch.cat([maps, torch.from_numpy(edges)[:, None].float()], 1)
    if dropped is not None:
        maps[dropped] = 0
    x, timesteps = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 700])

    of_patches = network(3, 6, CLASSES + with_edges, patch_size=patch)
    plain = network(3 * patch**2, 6 * patch**2, (CLASSES + with_edges) * patch**2)
    plain.load_state_dict(of_patches.state_dict())
    plain.modulation = "dense"
    folded = F.pixel_unshuffle(x, patch), timesteps, F.pixel_unshuffle(maps, patch)
    expected = F.pixel_shuffle(plain(*folded), patch)

    condition = Condition.from_labels(
        labels, CLASSES, edges, dropped, factors=of_patches.factors, mode=mode, patch_size=patch
    )
    of_patches.modulation = mode
    torch.testing.assert_close(of_patches(x, timesteps, condition), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(of_patches(x, timesteps, maps), expected, atol=1e-5, rtol=1e-4)


def test_condition_maps_that_are_not_zeros_and_ones_are_folded_too():
    maps, x = torch.rand(1, CLASSES, 16, 16), torch.randn(1, 3, 16, 16)
    of_patches, plain = network(3, 6, CLASSES, patch_size=2), network(12, 24, 4 * CLASSES)
    plain.load_state_dict(of_patches.state_dict())
    t = torch.tensor([10])
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, 2), t, F.pixel_unshuffle(maps, 2)), 2)
    torch.testing.assert_close(of_patches(x, t, maps), expected)


def test_levels_attention_and_defaults_are_those_of_the_grid(tiny):
    settings = tiny(img_size=32, patch_size=2)  # of 16 pixels, attention at 8
    assert (settings.level_sizes(), settings.attention_factors()) == ([16, 8], (2,))
    assert (
        tiny(img_size=256, patch_size=2, channel_mult=None).multipliers()
        == tiny(img_size=128, channel_mult=None).multipliers()
    )
    with pytest.raises(UserError, match="img_size 33 is no multiple of patch_size 2"):
        build_network(tiny(img_size=33, patch_size=2))
    with pytest.raises(UserError, match="img_size 18 / patch_size 2 cannot be halved 1 times.*a multiple of 4"):
        build_network(tiny(img_size=18, patch_size=2, attention_resolutions="none"))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_trains_goes_on_and_samples_without_being_told_again(tiny, tmp_path, channels):
    changes = {"patch_size": 2, "attention_resolutions": "4", "image_channels": channels, "preview_steps": 2}
    train(tiny(**changes, lr_anneal_steps=2, savedir=str(tmp_path / "run")), set())
    assert np.asarray(Image.open(tmp_path / "run" / "preview_000002.png")).shape[2] == 3
    checkpoint = read_checkpoint(str(tmp_path / "run"))
    assert checkpoint.state_dict["input_blocks.0.0.weight"].shape[1] == 4 * channels
    merged = merge_settings(Settings(img_size=16), set(), checkpoint)
    assert (merged.patch_size, merged.attention_resolutions, merged.image_channels) == (2, "4", channels)
    where = {"resume_checkpoint": str(tmp_path / "run"), "results_dir": str(tmp_path / "out")}
    sampling = tiny(**where, num_samples=2, num_steps=2)
    run_sampling(sampling, set(), distributed.start("cpu"))
    samples = sorted((tmp_path / "out" / "samples").iterdir())
    assert [np.asarray(Image.open(path)).shape for path in samples] == [(16, 16)] * 2


def test_colours_are_refused_by_name_where_grey_is_asked_for(tiny, tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "data")
    path = next((tmp_path / "data" / "images" / "training").iterdir())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)
    changes = {"datadir": str(tmp_path / "data"), "savedir": str(tmp_path / "run"), "lr_anneal_steps": 1}
    with pytest.raises(UserError, match=f"{path.name} is a picture in colour; expected is a grey one"):
        train(tiny(**changes, image_channels=1), set())


def test_a_grey_network_draws_for_the_labels_of_pictures_in_colour(tiny, tmp_path, pictures):
    changes = {"image_channels": 1, "dataset_mode": "folder"}
    train(tiny(**changes | {"dataset_mode": "camus"}, lr_anneal_steps=1, savedir=str(tmp_path / "run")), set())
    shutil.copytree(pictures / "images" / "training", tmp_path / "data" / "images")
    shutil.copytree(pictures / "sector_annotations" / "training", tmp_path / "data" / "labels")
    for path in (tmp_path / "data" / "images").iterdir():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)
    where = {"resume_checkpoint": str(tmp_path / "run"), "results_dir": str(tmp_path / "out")}
    sampling = tiny(**changes, **where | {"datadir": str(tmp_path / "data")}, num_samples=2, num_steps=2)
    run_sampling(sampling, set(), distributed.start("cpu"))
    assert len(list((tmp_path / "out" / "samples").iterdir())) == 2

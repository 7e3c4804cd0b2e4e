"""Pairing by name, layouts, and the published loader's pixels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import UserError
from config import Settings
from guided_diffusion.data.arrays import load_channels, load_edges, load_image, load_label, resize_image, target_size
from guided_diffusion.data.datasets import find_pairs, has_split, natural_key
from guided_diffusion.data.label_maps import instance_edges


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(value: int = 1, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.full(size, value, dtype=np.uint8)


@pytest.mark.parametrize("size", [256, 128, 96, 64])
def test_pixels_of_the_published_loader(reference, tmp_path, size):
    golden = np.load(reference / "loader.npz")
    frames = np.load(reference / "data_preparation.npz")
    names = sorted({key.split("/")[0] for key in golden})
    for name in names:
        save(tmp_path / f"images/training/{name}.png", frames[f"{name}/image"])
        save(tmp_path / f"sector_annotations/training/{name}.png", frames[f"{name}/sector_label"])
    settings = Settings(datadir=str(tmp_path), img_size=size)
    pairs = find_pairs(settings, ["training"])
    assert [pair.stem for pair in pairs] == names
    for pair in pairs:
        image = load_image(pair, settings)
        assert image.shape == (3, size, size)
        for channel in image.astype(np.float32) / 127.5 - 1:
            assert np.array_equal(channel, golden[f"{pair.stem}/{size}/image"])
        assert np.array_equal(load_label(pair, settings), golden[f"{pair.stem}/{size}/label"])


def test_natural_order():
    names = ["p10", "p2", "p1_k10", "p1_k2", "a", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "p1_k2", "p1_k10", "p2", "p10"]


def test_pairs_are_in_the_order_of_splits_then_names(tmp_path):
    for split in ("training", "validation"):
        for name in ("x_10", "x_9", "x_1"):
            save(tmp_path / f"images/{split}/{split[0]}{name}.png", picture())
            save(tmp_path / f"sector_annotations/{split}/{split[0]}{name}.png", picture())
    (tmp_path / "images/training/.hidden.png").write_bytes(b"")
    (tmp_path / "images/training/Thumbs.db").write_bytes(b"")
    pairs = find_pairs(Settings(datadir=str(tmp_path)), ["training", "validation"])
    assert [pair.stem for pair in pairs] == ["tx_1", "tx_9", "tx_10", "vx_1", "vx_9", "vx_10"]
    assert all(Path(pair.image_path).stem == Path(pair.label_path).stem == pair.stem for pair in pairs)


def test_all_problems_are_told_at_once(tmp_path):
    save(tmp_path / "images/training/only_image.png", picture())
    save(tmp_path / "images/training/both.png", picture())
    save(tmp_path / "sector_annotations/training/both.png", picture())
    save(tmp_path / "sector_annotations/training/both.bmp", picture())
    save(tmp_path / "sector_annotations/training/only_label.png", picture())
    with pytest.raises(UserError) as caught:
        find_pairs(Settings(datadir=str(tmp_path)), ["training", "validation"])
    text = str(caught.value)
    for piece in ("only_image.png: no label", "only_label.png: no image", "the same name as", "validation: no such"):
        assert piece in text
    assert "augment_camus_labels" in text
    with pytest.raises(UserError, match="not a folder"):
        find_pairs(Settings(datadir=str(tmp_path / "nowhere")), ["training"])
    with pytest.raises(UserError, match="--datadir is needed"):
        find_pairs(Settings(), ["training"])


def test_label_maps_alone_are_enough_for_sampling(tmp_path):
    save(tmp_path / "sector_annotations/training/a.png", picture())
    save(tmp_path / "sector_annotations/training/b.png", picture())
    save(tmp_path / "images/training/b.png", picture())
    settings = Settings(datadir=str(tmp_path))
    assert [pair.image_path is None for pair in find_pairs(settings, ["training"], with_images=False)] == [True, False]
    with pytest.raises(UserError):
        find_pairs(settings, ["training"])


def test_one_name_in_two_splits_is_refused_where_both_are_asked(tmp_path):
    for split in ("training", "validation"):
        save(tmp_path / f"images/{split}/same.png", picture())
        save(tmp_path / f"sector_annotations/{split}/same.png", picture())
    settings = Settings(datadir=str(tmp_path))
    assert len(find_pairs(settings, ["training"])) == 1
    with pytest.raises(UserError, match="another file has this name"):
        find_pairs(settings, ["training", "validation"])


LAYOUTS = {
    "camus": ("images/{}/x", "sector_annotations/{}/x", None, ("training", "validation")),
    "ade20k": ("images/{}/x", "annotations/{}/x", None, ("training", "validation")),
    "celeba": ("{}/images/x", "{}/labels/x", None, ("train", "test")),
    "coco": ("{}_img/x", "{}_label/x", "{}_inst/x", ("train", "val")),
    "cityscapes": (
        "leftImg8bit/{}/ulm/x_leftImg8bit",
        "gtFine/{}/ulm/x_gtFine_labelIds",
        "gtFine/{}/ulm/x_gtFine_instanceIds",
        ("train", "val"),
    ),
    "folder": ("images/{}/x", "labels/{}/x", "instances/{}/x", ("train", "test")),
}


@pytest.mark.parametrize("mode", LAYOUTS)
def test_layouts_and_their_instance_edges(tmp_path, mode):
    image, label, instance, splits = LAYOUTS[mode]
    values = np.zeros((8, 8), dtype=np.uint8)
    values[:, 5:] = 1
    objects = np.zeros((8, 8), dtype=np.uint16)
    objects[:2] = 300
    for split in splits:
        save(tmp_path / (image.format(split) + ".png"), picture())
        save(tmp_path / (label.format(split) + ".png"), values)
        if instance:
            save(tmp_path / (instance.format(split) + ".png"), objects)
    settings = Settings(datadir=str(tmp_path), dataset_mode=mode, img_size=8, no_instance=False)
    for split in ("training", "validation"):
        assert has_split(settings, split)
        (pair,) = find_pairs(settings, [split])
        assert pair.stem == "x"
        expected = instance_edges(objects.astype(int) if instance else values.astype(int))
        assert np.array_equal(load_edges(pair, settings), expected)
    if instance:
        (tmp_path / (instance.format(splits[0]) + ".png")).unlink()
        with pytest.raises(UserError, match="no instance map|no pictures"):
            find_pairs(settings, ["training"])


def test_a_folder_without_splits_is_all_for_training(tmp_path):
    save(tmp_path / "images/a.jpg", picture())
    save(tmp_path / "labels/a.png", picture())
    settings = Settings(datadir=str(tmp_path), dataset_mode="folder")
    assert [pair.stem for pair in find_pairs(settings, ["training"])] == ["a"]
    assert not has_split(settings, "validation")


def test_cityscapes_keeps_the_aspect_and_others_do_not():
    assert target_size(2048, 1024, Settings(dataset_mode="cityscapes", img_size=256)) == (512, 256)
    settings = Settings(dataset_mode="cityscapes", img_size=100)  # can be halved twice, and so can the other side
    assert target_size(2000, 900, settings) == (224, 100)
    assert target_size(2048, 1024, Settings(img_size=256)) == (256, 256)


def test_a_crop_shows_the_same_part_of_image_and_label(tmp_path):
    values = np.zeros((40, 40), dtype=np.uint8)
    values[10:20, 20:30] = 1
    save(tmp_path / "images/training/x.png", values * 200)
    save(tmp_path / "sector_annotations/training/x.png", values)
    settings = Settings(datadir=str(tmp_path), img_size=20)
    (pair,) = find_pairs(settings, ["training"])
    box = (0.5, 0.25, 1.0, 0.75)  # exactly 20 x 20 pixels, from column 20 and row 10
    assert np.array_equal(load_label(pair, settings, box), values[10:30, 20:40])
    assert np.array_equal(load_image(pair, settings, box)[0], values[10:30, 20:40] * 200)


def test_grey_pictures_are_resized_as_their_three_channels_would_be(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (90, 70)).astype(np.uint8)
    save(tmp_path / "images/training/x.png", grey)
    save(tmp_path / "sector_annotations/training/x.png", grey)
    for size, box in ((16, None), (100, None), (32, (0.1, 0.2, 0.93, 0.99))):
        settings = Settings(datadir=str(tmp_path), img_size=size)
        (pair,) = find_pairs(settings, ["training"])
        channels = load_channels(pair, settings, box)
        assert channels.shape == (1, size, size)
        coloured = resize_image(np.dstack([grey, grey, grey]), settings, box)
        assert np.array_equal(coloured, channels.repeat(3, axis=0))
        assert np.array_equal(coloured, load_image(pair, settings, box))


def test_palette_images_give_their_indices_and_broken_files_an_error(tmp_path):
    (tmp_path / "sector_annotations/training").mkdir(parents=True)
    indexed = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8)).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    indexed.save(tmp_path / "sector_annotations/training/a.png")
    (tmp_path / "sector_annotations/training/b.png").write_bytes(b"no picture")
    settings = Settings(datadir=str(tmp_path), img_size=2)
    good, broken = find_pairs(settings, ["training"], with_images=False)
    assert load_label(good, settings).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="b.png cannot be read"):
        load_label(broken, settings)


def test_names_that_are_no_text_are_refused_wherever_they_lie(tiny, pictures, tmp_path):
    """Stray files too: they would be named in a warning."""
    for name in (b"images/training/p\xe9.png", b"sector_annotations/training/notes\xff.txt"):
        shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
        strange = os.fsencode(tmp_path) + b"/" + name
        with open(strange, "wb"):
            pass
        with pytest.raises(UserError, match=r"1 names of .* are not in UTF-8, such as b'.*\\x(e9|ff)") as told:
            find_pairs(tiny(datadir=str(tmp_path)), ["training"])
        assert str(told.value).isascii() and "\n" not in str(told.value)
        os.remove(strange)
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9")
    shutil.copytree(pictures, folder)
    with pytest.raises(UserError, match=r"\\udce9/.*: 1 names of .* are not in UTF-8"):
        find_pairs(tiny(datadir=folder), ["training"])

"""Mistakes that a training tells before its first step."""

import shutil

import numpy as np
import pytest
from PIL import Image

from command import UserError
from guided_diffusion.runs.distributed import AgreedError
from guided_diffusion.training.loop import train


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datadir": "/nowhere"}, "datadir /nowhere"),
        ({"resume_checkpoint": "/nowhere.pt"}, "/nowhere.pt does not exist"),
        ({"num_classes": 3}, "classes are 0 to 2"),
        ({"batch_size_train": 0}, "batch_size_train 0"),
        ({"drop_rate": 1.5}, "drop_rate 1.5"),
        ({"img_size": 15}, "img_size 15"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"ema_rate": "1.5"}, "ema_rate"),
        ({"ema_rate": "0.1,w0.1,0.1"}, "has one of them twice"),
        ({"ema_rate": "w0.05,w0.1", "ema_warmup": False}, "--ema_warmup False has no effect on the widths of"),
        ({"predict_xstart": True, "prediction_type": "v_prediction"}, "contradict each other"),
        ({"use_kl": True, "loss_weighting": "min_snr"}, "--loss_weighting min_snr has no effect with --use_kl True"),
        ({"use_kl": True, "vb_weight": 1.0}, "--vb_weight 1.0 has no effect with --use_kl True"),
        ({"learn_sigma": False, "vb_weight": 1.0}, "--vb_weight 1.0 has no effect with --learn_sigma False"),
        (
            {"learn_sigma": False, "rescale_learned_sigmas": True, "lr_anneal_steps": 0, "lr_schedule": "cosine"},
            "rescale_learned_sigmas True has .*--learn_sigma False; --lr_schedule cosine has .*--lr_anneal_steps 0",
        ),
        ({"class_cond": False, "drop_rate": 0.2}, "--drop_rate 0.2 has no effect with --class_cond False"),
        ({"class_cond": False, "no_instance": False}, "--no_instance False has no effect with --class_cond False"),
        ({"loss_weighting": "min_snr", "snr_floor": 0.1}, "snr_floor needs --prediction_type"),
        ({"loss_weighting": "min_snr", "snr_gamma": 0.0}, "snr_gamma"),
        (
            {"prediction_type": "v_prediction", "snr_floor": 0.1},
            "--snr_floor 0.1 has no effect without --loss_weighting min_snr",
        ),
        ({"snr_gamma": 1.0}, "--snr_gamma 1.0 has no effect without --loss_weighting min_snr"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_the_first_step(tmp_path, tiny, changes, words):
    with pytest.raises(UserError, match=words):
        train(tiny(**{"savedir": str(tmp_path / "out")} | changes), set())


def test_deformed_labels_are_not_trained_on(tmp_path, tiny):
    """What is sampled from has the layout of training data, but its images are those of the undeformed labels."""
    for kind in ("images", "sector_annotations"):
        folder = tmp_path / "data" / kind / "training"
        folder.mkdir(parents=True)
        for number in (1, 2):
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / f"patient000{number}_2CH_ED_training_0.png")
    with pytest.raises(AgreedError, match="2 label maps are deformed.*--add_augmentation False"):
        train(tiny(savedir=str(tmp_path / "out"), datadir=str(tmp_path / "data")), set())


@pytest.mark.parametrize("random_crop", [False, True])
def test_label_maps_of_another_aspect_than_their_images_are_refused(tmp_path, tiny, random_crop):
    """Transposed, say. Of half the size, to the pixel, they are read."""
    for kind, size in (("images", (41, 64)), ("sector_annotations", (20, 32))):
        folder = tmp_path / "data" / kind / "training"
        folder.mkdir(parents=True)
        for name in ("a1", "a2"):
            Image.fromarray(np.ones(size, np.uint8)).save(folder / f"{name}.png")
    changes = {"datadir": str(tmp_path / "data"), "random_crop": random_crop, "lr_anneal_steps": 1}
    train(tiny(savedir=str(tmp_path / "out"), **changes), set())
    Image.fromarray(np.ones((32, 20), np.uint8)).save(folder / "a2.png")
    with pytest.raises(AgreedError, match=r"a2.png: 32 x 20 pixels .*another aspect than its image, 41 x 64"):
        train(tiny(savedir=str(tmp_path / "other"), **changes), set())


def test_instance_maps_of_another_aspect_are_refused(tmp_path, tiny):
    for kind in ("images", "labels", "instances"):
        (tmp_path / kind).mkdir()
        for stem in ("a", "b"):
            shape = (24, 16) if (kind, stem) == ("instances", "b") else (16, 24)
            Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / kind / f"{stem}.png")
    changes = {"datadir": str(tmp_path), "dataset_mode": "folder", "no_instance": False}
    with pytest.raises(AgreedError, match=r"b.png: 16 x 24 pixels .*another aspect than its instance map, 24 x 16"):
        train(tiny(savedir=str(tmp_path / "out"), **changes), set())


def test_a_savedir_that_cannot_be_written_is_told(tmp_path, tiny):
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError)):
        train(tiny(savedir=str(tmp_path / "file")), set())


@pytest.mark.parametrize("name", ["train_test_config.json", "preview_000002.png"])
def test_files_that_no_training_of_ours_wrote_are_not_replaced(tmp_path, tiny, name):
    (tmp_path / name).write_text("mine")
    settings = {"savedir": str(tmp_path), "lr_anneal_steps": 2, "save_interval": 1}
    with pytest.raises(UserError, match=f"{name} is there, but no log of a training"):
        train(tiny(**settings), set())
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == [name]
    (tmp_path / "log.txt").write_text("of a training that was killed before its first checkpoint")
    train(tiny(**settings), set())
    assert (tmp_path / "model000002.pt").exists()


def test_a_split_without_pictures_is_not_there(tmp_path, tiny, pictures):
    data = tmp_path / "data"
    for kind in ("images", "sector_annotations"):
        shutil.copytree(pictures / kind / "training", data / kind / "training")
        (data / kind / "validation").mkdir()
        (data / kind / "validation/README.txt").write_text("nothing here")
    train(tiny(savedir=str(tmp_path / "out"), datadir=str(data), lr_anneal_steps=1), set())
    assert "none for validation" in (tmp_path / "out/log.txt").read_text()

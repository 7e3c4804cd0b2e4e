"""The whole chain on data that are not CAMUS, by real commands at the smallest size; whose checkpoints are refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_up_sets import HEADS, write_heads, write_stills

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--img_size", 16, "--num_channels", 32, "--channel_mult", "1,2", "--num_res_blocks", 1)
NETWORK += ("--attention_resolutions", 8, "--num_head_channels", 32, "--num_workers", 0, "--device", "cpu")
TRAINING = ("--lr_anneal_steps", 2, "--save_interval", 2, "--batch_size_train", 2, "--preview_steps", 2)
pytestmark = pytest.mark.timeout(900)  # some fifty seconds of one core
CPU = ("--num-workers", 0, "--gpu", "cpu")


def command(script: str, *args: object, code: int = 0) -> str:
    """Run a command from the root, which must end with `code`; what it printed, errors last."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "NO_ALBUMENTATIONS_UPDATE": "1"}
    words = [sys.executable, ROOT / script, *map(str, args)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """Heads -> views -> sector and augmented -> diffusion -> results -> segmentation data -> segmentation."""
    folder = tmp_path_factory.mktemp("chain")
    heads = write_heads(folder / "heads", patients=5, size=32).parent
    where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", heads / "dataset.json")
    views = ("--save_folder_path", folder / "views", "--save_img_size", 16, "--num_workers", 0)
    command("data_preparation/extract_dataset.py", *where, *views)
    for made, flags in (("sector", ("--add_augmentation", "False")), ("augmented", ("--n_repeat", 1))):
        given = ("--data_folder", folder / "views", "--save_folder", folder / made, "--num_workers", 0)
        command("data_preparation/augment_camus_labels.py", *given, *flags)
    given = ("--datadir", folder / "sector/all_views_sector", "--savedir", folder / "diffusion")
    command("semantic_diffusion_model/image_train.py", *given, *NETWORK, *TRAINING)
    given = ("--datadir", folder / "augmented/all_views_augmented", "--results_dir", folder / "results")
    given += ("--resume_checkpoint", folder / "diffusion", "--num_steps", 2, "--num_samples", 9, "--device", "cpu")
    command("semantic_diffusion_model/image_sample.py", *given)
    given = ("--testing_data_folder", folder / "views", "--sdm_results_folder", folder / "results")
    given += ("--save_folder", folder / "data", "--num_workers", 0)
    command("data_preparation/prepare_inference4segmentation.py", *given)
    given = ("--data-dir", folder / "data/all_views", "--output-dir", folder / "segmentation", "--img-size", 64)
    folder.joinpath("said.txt").write_text(command("echo_segmentation/runner.py", *given, "--epochs", 1, *CPU))
    return folder


def test_the_heads_go_through_the_whole_chain(chain):
    with open(chain / "results" / "manifest.csv") as file:
        rows = list(csv.DictReader(file))
    # Eight label maps, of three training patients and a validation patient: the ninth image is a second round.
    assert len(rows) == 9 and [row["stem"] for row in rows if row["round"] == "1"] == ["HC_0042 (left)_0_r1"]
    data = chain / "data" / "all_views"
    names = {split: {path.stem for path in (data / "images" / split).iterdir()} for split in ("training", "testing")}
    assert "HC_0042 (left)_0_r1" in names["training"] and len(names["training"]) == 7
    assert names["testing"] == {"HC_0040 (left)", "HC_0040 (right)"}
    for path in (data / "annotations" / "training").iterdir():
        whole = chain / "augmented/all_views_augmented/annotations/training" / path.name.replace("_r1", "")
        assert np.array_equal(read(path), read(whole))
    for folder in ("views/left", "augmented/left_augmented", "sector/right_sector", "results", "data/right"):
        assert json.loads((chain / folder / "dataset.json").read_text())["name"] == HEADS["name"]


def test_report_figures_and_checkpoint_speak_of_heads(chain):
    said = (chain / "said.txt").read_text()
    assert "[head " in said and "[cavum std " in said and "lv_" not in said and "ejection" not in said
    assert "within cone" not in said and "mm@64" in said
    out = chain / "segmentation"
    with open(out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(row["patient"], row["view"]) for row in rows} == {("HC_0040", "left"), ("HC_0040", "right")}
    structures = ["head", "skull", "cavum"]
    assert [name for name in rows[0] if name.endswith("_dice")] == [f"{name}_dice" for name in structures]
    assert not (out / "camus_table.md").exists() and not (out / "ejection_fraction.csv").exists()
    assert "ejection_fraction" not in json.loads((out / "summary.json").read_text())
    assert json.loads((out / "settings.json").read_text())["num_classes"] == 4
    state = torch.load(out / "model.pth", weights_only=True)
    assert state._metadata["echo_segmentation"]["labels"] == ["background", "skull", "brain", "cavum"]
    weights = torch.load(next((chain / "diffusion").glob("ema_*.pt")), weights_only=True)
    settings = weights._metadata[""]["settings"]
    assert settings["class_names"] == ["background", "skull", "brain", "cavum"] and settings["num_classes"] == 4
    config = json.loads((chain / "diffusion" / "train_test_config.json").read_text())
    assert config["DATASETS"]["CLASS_NAMES"] == settings["class_names"]


def test_pictures_are_in_the_colours_of_the_description(chain):
    sheet = cv2.cvtColor(cv2.imread(str(chain / "results" / "preview.png")), cv2.COLOR_BGR2RGB)
    labels = sheet[: (len(sheet) - 4) // 2 // 4]  # the uppermost of four panels of the first of two lines
    there = {tuple(colour) for colour in np.unique(labels.reshape(-1, 3), axis=0).tolist()}
    assert {(0, 0, 0), (230, 159, 0), (86, 180, 233), (213, 94, 0)} <= there and (90, 90, 90) not in there


def test_predictions_of_pictures_have_no_ventricle(chain, tmp_path):
    given = ("--model-path", chain / "segmentation/model.pth", "--input", chain / "views/left/images/testing")
    command("echo_segmentation/predict.py", *given, "--output-dir", tmp_path / "out", "--gpu", "cpu")
    header = (tmp_path / "out" / "frames.csv").read_text().splitlines()[0]
    assert header == "name,frame,patient,view,phase"


def test_the_nnunet_export_has_the_classes_of_the_heads(chain, tmp_path):
    given = ("--data_folder", chain / "data/all_views", "--save_folder", tmp_path / "Dataset501_Heads")
    command("data_preparation/export_nnunet.py", *given, "--num_workers", 0)
    content = json.loads((tmp_path / "Dataset501_Heads" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "skull": 1, "brain": 2, "cavum": 3}
    assert (tmp_path / "Dataset501_Heads" / "imagesTs" / "HC_0040 (left)_0000.nii.gz").is_file()


def renamed(folder: Path, out: Path) -> Path:
    """A copy of a view folder in which a class has another name."""
    shutil.copytree(folder, out)
    path = out / "dataset.json"
    path.write_text(path.read_text().replace('"brain"', '"cerebrum"'))
    return out


def test_another_description_is_refused_by_every_command_with_a_checkpoint(chain, tmp_path):
    sector, data = chain / "sector/all_views_sector", chain / "data/all_views"
    other = renamed(sector, tmp_path / "sector")
    given = ("--resume_checkpoint", chain / "diffusion", "--results_dir", tmp_path / "results", "--device", "cpu")
    told = command("semantic_diffusion_model/image_sample.py", "--datadir", other, *given, code=2)
    assert "was trained for other classes" in told and "background, cerebrum" not in told and "cerebrum" in told
    assert not (tmp_path / "results").exists()
    other = renamed(data, tmp_path / "data")
    given = ("--model-path", chain / "segmentation/model.pth", "--output-dir", tmp_path / "out", *CPU)
    told = command("echo_segmentation/test_model.py", "--data-dir", other, *given, code=2)
    assert "was trained for other classes" in told and "cerebrum" in told and not any((tmp_path / "out").glob("*.csv"))


def test_camus_and_heads_are_not_mixed(chain, tmp_path):
    from command import UserError
    from config import Settings
    from guided_diffusion.data.description import with_description
    from guided_diffusion.runs.checkpoints import read_checkpoint
    from guided_diffusion.runs.network_settings import merge_settings

    checkpoint = read_checkpoint(str(chain / "diffusion"))
    sector = Settings(datadir=str(chain / "sector/all_views_sector"))
    merged = merge_settings(*with_description(sector, set()), checkpoint)
    assert merged.num_classes == 4 and merged.class_names == ("background", "skull", "brain", "cavum")
    with pytest.raises(UserError, match="brain, cavum, not those of CAMUS"):
        merge_settings(*with_description(Settings(datadir=str(tmp_path)), set()), checkpoint)
    checkpoint.settings.pop("class_names")
    with pytest.raises(UserError, match="those of CAMUS, not background, skull"):
        merge_settings(*with_description(sector, set()), checkpoint)


def test_a_number_of_classes_that_disagrees_is_an_error(chain, tmp_path):
    given = ("--datadir", chain / "sector/all_views_sector", "--savedir", tmp_path / "x", "--num_classes", 5)
    told = command("semantic_diffusion_model/image_train.py", *given, *NETWORK, code=2)
    assert "--num_classes 5" in told and "describes 4 (background, skull, brain, cavum)" in told
    given = ("--data-dir", chain / "data/all_views", "--output-dir", tmp_path / "y", "--num-classes", 5)
    told = command("echo_segmentation/runner.py", *given, *CPU, code=2)
    assert "--num-classes 5" in told and "has 4, by its dataset.json" in told
    given = ("--data-dir", chain / "data/all_views", "--output-dir", tmp_path / "y", "--native-dir", chain)
    assert "--native-dir is of CAMUS releases" in command("echo_segmentation/runner.py", *given, *CPU, code=2)
    assert not (tmp_path / "y").exists()


def test_deformed_labels_are_still_refused_for_training(chain, tmp_path):
    given = ("--datadir", chain / "augmented/all_views_augmented", "--savedir", tmp_path / "x")
    told = command("semantic_diffusion_model/image_train.py", *given, *NETWORK, *TRAINING, code=2)
    assert "6 label maps are deformed" in told


def test_stills_of_one_view_with_a_sector(tmp_path):
    """Names that end in numbers, as those that are appended do; labels of 0 and 255; splits drawn; a sector."""
    stills = write_stills(tmp_path / "stills", patients=8).parent
    where = ("--images", stills / "frames", "--labels", stills / "frames", "--dataset", stills / "dataset.json")
    views = ("--save_folder_path", tmp_path / "views", "--save_img_size", 32, "--num_workers", 0)
    said = command("data_preparation/extract_dataset.py", *where, *views)
    assert "16 frames of 8 patients (6 training, 1 validation, 1 testing) in one view" in said
    given = ("--data_folder", tmp_path / "views", "--save_folder", tmp_path / "augmented", "--num_workers", 0)
    command("data_preparation/augment_camus_labels.py", *given, "--n_repeat", 2)
    folder = tmp_path / "augmented" / "all_views_augmented"
    maps = sorted((folder / "sector_annotations" / "training").iterdir())
    assert len(maps) == 24 and all(path.stem[-3:] in ("__0", "__1") for path in maps)
    for path in maps:
        sector, image = read(path), read(folder / "images" / "training" / path.name)
        assert np.array_equal(sector == 0, image == 0) and set(np.unique(sector)) == {0, 1, 2}
        assert np.array_equal((sector == 2), (read(folder / "annotations" / "training" / path.name) == 1) & (image > 0))
    # Results as a sampling job leaves them: what it drew for is what it was given.
    results = tmp_path / "results"
    shutil.copytree(folder / "images" / "training", results / "samples")
    shutil.copytree(folder / "sector_annotations" / "training", results / "labels")
    for name in ("metadata.csv", "dataset.json"):
        shutil.copy(folder / name, results / name)
    given = ("--testing_data_folder", tmp_path / "views", "--sdm_results_folder", results, "--labels", "cone")
    given += ("--save_folder", tmp_path / "data", "--num_workers", 0)
    said = command("data_preparation/prepare_inference4segmentation.py", *given)
    assert "all_views: 24 synthetic training, 0 synthetic validation and 2 real test images" in said
    for path in (tmp_path / "data" / "all_views" / "annotations" / "training").iterdir():
        assert np.array_equal(read(path), read(results / "labels" / path.name) == 2)

"""Arguments and input are checked first, in one line with exit code 2, and before anything slow is imported."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cases import find_cases
from command import UserError, parse_settings
from devices import choose_device
from model import build_camus_unet
from settings import TrainSettings

FOLDER = Path(__file__).resolve().parents[2] / "echo_segmentation"
SLOW = ("torch", "monai", "segmentation_models_pytorch", "albumentations", "matplotlib", "scipy")


@pytest.mark.parametrize("command", ["runner", "test_model"])
@pytest.mark.parametrize(
    ("flags", "code"), [(["--help"], 0), (["--data-dir", "/no/%s/", "--model-path", "/no.pth"], 2)]
)
def test_help_and_a_wrong_path_are_answered_before_slow_imports(command, flags, code):
    program = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
sys.argv = ["{command}.py", *{flags!r}]
import runpy
try:
    runpy.run_path({str(FOLDER / (command + ".py"))!r}, run_name="__main__")
except SystemExit as exit_:
    print("exit", exit_.code)
print("slow", sorted(set({SLOW!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"exit {code}" in done.stdout
    assert "slow []" in done.stdout
    if code:
        assert done.stderr.startswith("error: --data-dir /no/%s/: /no/images is not a folder")


def test_help_names_every_setting_in_words(train, capsys):
    with pytest.raises(SystemExit) as raised:
        train("--help")
    said = capsys.readouterr().out
    assert raised.value.code == 0
    for words in ("--data-dir", "--pin-memory", "Passes over the training images", "Learning rate of Adam"):
        assert words in said


@pytest.mark.parametrize("written", [("--augment", "False"), ("--augment=no",), ("--augment", "F")])
def test_words_for_no(hearts, train, tiny, tmp_path, written):
    assert train("--data-dir", hearts, "--output-dir", tmp_path, *tiny, *written, "--epochs", "0") == 2
    assert parse_settings(TrainSettings, ["--data_dir", "x", *written]).augment is False
    assert parse_settings(TrainSettings, ["--data-dir", "x", "--augment"]).augment is True


def fails(command, capsys, *flags) -> str:
    """Runs the command, which must end with exit code 2; what it says of it."""
    assert command(*flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("data_dir", "message"),
    [
        ("{0}/%s/%s", "%s may stand once"),
        ("{0}/%d/", "the only place holder is %s"),
        ("{0}/images", "a folder that holds images and annotations"),
        ("{0}/x%s", "is not a folder"),
    ],
)
def test_wrong_data_folders(train, hearts, capsys, data_dir, message):
    assert message in fails(train, capsys, "--data-dir", data_dir.format(hearts))


def test_unpaired_files_are_all_named(train, make_folder, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"training": 2, "validation": 1})
    images, annotations = (sorted((data / kind / "training").iterdir()) for kind in ("images", "annotations"))
    images[0].unlink()
    annotations[3].unlink()
    said = fails(train, capsys, "--data-dir", data)
    assert f"{annotations[0]}: no image" in said
    assert f"{images[3]}: no annotation" in said


def test_a_missing_or_empty_split(train, make_folder, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"training": 1})
    assert "validation is not there" in fails(train, capsys, "--data-dir", data)
    for kind in ("images", "annotations"):
        (data / kind / "validation").mkdir()
    assert "no pictures" in fails(train, capsys, "--data-dir", data)


def test_sector_labels_are_sent_to_be_converted(train, make_folder, tmp_path, capsys):
    data = make_folder(tmp_path / "data")
    file = next((data / "annotations" / "testing").iterdir())
    labels = np.asarray(Image.open(file)).copy()
    labels[-8:] = 4
    Image.fromarray(labels).save(file)
    said = fails(train, capsys, "--data-dir", data)
    assert "prepare_inference4segmentation.py" in said
    assert file.name in said
    (data / "annotations").rename(data / "sector_annotations")
    assert "prepare_inference4segmentation.py" in fails(train, capsys, "--data-dir", data)


@pytest.mark.parametrize("folder", ["data", "extra"])
def test_deformed_label_maps_beside_real_images_are_not_trained_on(train, make_folder, tmp_path, capsys, folder):
    """A folder to sample from; one of synthetic images, with names alike but images of their own, is."""
    made = {name: make_folder(tmp_path / name) for name in ("data", "extra")}
    for kind in ("images", "annotations"):
        for path in sorted((made[folder] / kind / "training").iterdir()):
            path.rename(path.with_stem(f"{path.stem}_0"))
    flags = ("--data-dir", made["data"], "--extra-data-dir", made["extra"])
    (made[folder] / "sector_annotations").mkdir()
    said = fails(train, capsys, *flags)
    flag = "--data-dir" if folder == "data" else "--extra-data-dir"
    assert f"{flag} {made[folder]}" in said and "label maps are deformed (as " in said
    (made[folder] / "sector_annotations").rmdir()
    assert find_cases(str(made[folder]), "training")


@pytest.mark.parametrize(("top", "message"), [(255, "scaled to be seen"), (4, "--num-classes 3")])
def test_classes_beyond_the_number(train, make_folder, tmp_path, capsys, top, message):
    data = make_folder(tmp_path / "data")
    Image.fromarray(np.full((64, 64), top, np.uint8)).save(next((data / "annotations" / "training").iterdir()))
    classes = 3 if top == 4 else 4
    assert message in fails(train, capsys, "--data-dir", data, "--num-classes", classes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0: input should be greater than or equal to 1"),
        (["--lr", "0.1", "--min-lr", "0.2"], "0 <= min-lr <= lr"),
        (["--num-classes", "1"], "greater than or equal to 2"),
        (["--epochs", "many"], "many"),
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--img-size", "100", "--gpu", "cpu"], "takes multiples of 32 from 64 up"),
        (["--img-size", "128", "--model-name", "camus-unet", "--gpu", "cpu"], "multiples of 128 from 256 up"),
        (["--gpu", "cuda:77"], "--gpu cuda:77: is not there"),
        (["--gpu", "cuda:256"], "--gpu cuda:256: is not there"),
        (["--gpu", "fast"], "--gpu fast: expected is"),
        (["--gpu", "cpu", "--output-dir", __file__], "File exists"),
        (["--model-path", "none.pth"], "none.pth: no such file"),
        (["--spacing-mm", "0.3", "0"], "--spacing-mm 0.3 0.0"),
        (["--output-dir", "x" * 300], "File name too long"),
        (["--model-name", "camus-unet", "--encoder-name", "resnet34"], "--encoder-name is of unet"),
        (["--model-name", "camus-unet", "--decoder-channels", "8", "4"], "--decoder-channels is of unet"),
        (["--model-name", "camus-unet", "--encoder-weights", "imagenet"], "--encoder-weights is of unet"),
    ],
)
def test_wrong_settings_of_training(train, hearts, tmp_path, capsys, flags, message):
    assert message in fails(train, capsys, "--data-dir", hearts, "--output-dir", tmp_path / "o", *flags)


def test_the_default_gpu_falls_back_to_the_cpu_but_one_asked_for_does_not(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    by_default, asked = (
        parse_settings(TrainSettings, ["--data-dir", "x", *flags]).gpu for flags in ([], ["--gpu", "cuda:0"])
    )
    assert by_default == asked == "cuda:0"
    assert choose_device(by_default).type == "cpu"
    assert "computing on the CPU" in capsys.readouterr().out
    with pytest.raises(UserError, match="cuda:0: is not there"):
        choose_device(asked)


def test_a_checkpoint_of_the_other_architecture(train, hearts, tiny, tmp_path, capsys):
    torch.save(build_camus_unet(4).state_dict(), tmp_path / "camus.pth")
    said = fails(
        train, capsys, "--data-dir", hearts, "--output-dir", tmp_path, *tiny, "--model-path", tmp_path / "camus.pth"
    )
    assert "model_name='camus-unet'" in said
    assert "model_name='unet'" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needed are --data-dir and one of --model-path and --predictions"),
        (["--data-dir", "{hearts}"], "needed are --data-dir and one of --model-path and --predictions"),
        (["--data-dir", "{hearts}", "--model-path", "{hearts}/none.pth"], "none.pth: no such file"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--mean", "0.1"], "go together"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--mean", "120", "--std", "0.2"], "--mean 120"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--mean", "0.4", "--std", "50"], "--std 50"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--num-classes", "5"], "--num-classes 5"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--img-size", "36"], "multiples of 8 from 16 up"),
        (["--data-dir", "{hearts}", "--model-path", "{hearts}/metadata.csv"], "not a checkpoint"),
        (["--data-dir", "{hearts}", "--model-path", "{run}/last.pth"], "take model.pth"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--gpu", "cpu"], "--gpu is about a network"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--compile-model"], "--compile-model is about a network"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--batch-size", "2"], "--batch-size is about a network"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--num-workers", "0"], "--num-workers is about a"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--pin-memory", "False"], "--pin-memory is about a"),
        (["--compare", "{hearts}", "{run}"], "no metrics.csv"),
        (["--compare", "{run}", "{run}", "--bootstrap", "1000"], "--bootstrap has no part in --compare"),
        (
            ["--compare", "{run}", "{run}", "--missed-distance", "diagonal"],
            "--missed-distance has no part in --compare",
        ),
        (["--compare", "{run}", "{run}", "--image-quality", "Good"], "--image-quality has no part in --compare"),
        (["--compare", "{run}", "{run}", "--remove-stray-parts"], "--remove-stray-parts has no part in --compare"),
        (["--compare", "{run}", "{run}", "--gpu", "cuda:0"], "--gpu has no part in --compare"),
        (["--compare", "{run}", "{run}", "--data-dir", "{hearts}"], "--data-dir has no part in --compare"),
        (["--data-dir", "{hearts}", "--model-path", "{model}", "--spacing-mm", "-1"], "--spacing-mm -1.0"),
        (["--data-dir", "{hearts}", "--predictions", "{run}", "--mean", "0.1", "--std", "0.2"], "--mean is about a"),
        (
            ["--data-dir", "{hearts}", "--predictions", "{run}", "--remove-stray-parts"],
            "--remove-stray-parts is about a",
        ),
    ],
)
def test_wrong_settings_of_testing(judge, hearts, trained, tmp_path, capsys, flags, message):
    places = {"hearts": hearts, "run": trained, "model": trained / "model.pth"}
    filled = [flag.format(**places) for flag in flags]
    assert message in fails(judge, capsys, *filled, "--output-dir", tmp_path)


def test_a_comparison_may_be_given_a_folder_for_results(judge, trained, tmp_path, capsys):
    """It writes nothing there."""
    assert judge("--compare", trained, trained, "--output-dir", tmp_path / "o") == 0
    assert "8 cases in common" in capsys.readouterr().out and not (tmp_path / "o").exists()


def test_a_last_checkpoint_that_is_none(train, trained, hearts, tiny, tmp_path, capsys):
    (tmp_path / "last.pth").write_bytes((trained / "model.pth").read_bytes())
    said = fails(train, capsys, "--data-dir", hearts, "--output-dir", tmp_path, *tiny)
    assert "last.pth: not the state of a training" in said


def test_a_published_checkpoint_without_training_images(judge, make_folder, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"testing": 1})
    torch.save(build_camus_unet(4).state_dict(), tmp_path / "camus.pth")
    said = fails(
        judge, capsys, "--data-dir", data, "--model-path", tmp_path / "camus.pth", "--output-dir", tmp_path / "o"
    )
    assert "give --mean and --std, or training images" in said


def test_metadata_that_cannot_be_used(judge, make_folder, trained, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"testing": 1})
    file = data / "metadata.csv"
    file.write_text(file.read_text().replace("400", "-400", 1))
    flags = ("--data-dir", data, "--model-path", trained / "model.pth", "--output-dir", tmp_path / "o")
    assert "native_height -400: input should be" in fails(judge, capsys, *flags)
    file.write_bytes(b"\x89PNG\r\n\x1a\n\1\2")
    assert "is no text" in fails(judge, capsys, *flags)
    file.write_text("stem,patient\na,b\n")
    assert "columns native_height, native_width" in fails(judge, capsys, *flags)

"""image_average.py on what a training saved."""

import pytest
import torch

import image_average
from command import UserError
from guided_diffusion.runs import launch
from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.runs.world import AgreedError
from guided_diffusion.training.averaging import saved_averages, write_average
from guided_diffusion.training.ema import combination
from guided_diffusion.training.loop import train


@pytest.fixture(scope="module")
def trained(tiny, random_weights, tmp_path_factory):
    """Eight updates, of which every second is saved with two widths, gone on with once."""
    folder = tmp_path_factory.mktemp("widths")
    changes = {"ema_rate": "0.9,w0.05,w0.1", "save_interval": 2, "drop_rate": 0.2, "lr": 1e-2}
    for steps in (4, 8):
        train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), lr_anneal_steps=steps, **changes), set())
    return folder


def test_the_averages_are_saved_and_the_plain_one_is_taken(trained):
    assert set(saved_averages(str(trained))) == {(width, step) for width in (0.05, 0.1) for step in (2, 4, 6, 8)}
    assert read_checkpoint(str(trained)).path.endswith("ema_0.9_000008.pt")


def test_the_sum_is_a_checkpoint_of_its_own(trained, tmp_path, capsys):
    words = ["--savedir", str(trained), "--width", "0.08", "--save_as", str(tmp_path / "average.pt"), "--step", "6"]
    assert launch.run(image_average.main, image_average.AverageSettings, args=words) == 0
    told = capsys.readouterr().out
    assert "6 averages of" in told and "image_sample.py --datadir AUGMENTED --resume_checkpoint" in told
    made = read_checkpoint(str(tmp_path / "average.pt"))
    assert (made.source, made.drop_rate) == ("file", 0.2)
    saved = {key: name for key, name in saved_averages(str(trained)).items() if key[1] <= 6}
    factors, _ = combination(list(saved), 0.08, 6)
    parts = [torch.load(trained / name, weights_only=True)["out.2.bias"] for name in saved.values()]
    expected = sum(factor * part.double() for factor, part in zip(factors, parts, strict=True))
    assert torch.allclose(made.state_dict["out.2.bias"].double(), expected, atol=1e-7)
    with pytest.raises(UserError, match="is there already"):
        write_average(str(trained), str(tmp_path / "average.pt"), 0.08, 0)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [({"timestep_respacing": "25"}, "--timestep_respacing 25"), ({"diffusion_steps": 5}, "--num_steps 5")],
    ids=str,
)
def test_an_average_knows_the_timesteps_that_were_learned(tiny, tmp_path, capsys, changes, flags):
    settings = {"savedir": str(tmp_path), "ema_rate": "0.1,w0.05,w0.1", "save_interval": 1, "lr_anneal_steps": 2}
    train(tiny(**settings, prediction_type="v_prediction", **changes), set())
    write_average(str(tmp_path), str(tmp_path / "average.pt"), 0.08, 0)
    assert read_checkpoint(str(tmp_path / "average.pt")).timestep_respacing == changes.get("timestep_respacing", "")
    assert flags in capsys.readouterr().out.splitlines()[-1]


def test_what_cannot_be_combined_is_told(trained, tmp_path):
    for folder, step, words in (
        (tmp_path / "none", 0, "is not a folder"),
        (tmp_path, 0, "holds 0 power-function averages"),
        (trained, 99, "the last at 8"),
        (trained, 7, "has no power-function average of update 7"),
        (trained, 1, "holds 0 power-function averages up to update 1"),
    ):
        with pytest.raises(UserError, match=words):
            write_average(str(folder), str(tmp_path / "new.pt"), 0.08, step)
    with pytest.raises(UserError, match=r"come no nearer to width 0.25 than \d+%"):
        write_average(str(trained), str(tmp_path / "new.pt"), 0.25, 2)
    assert not (tmp_path / "new.pt").exists()
    for name, words in ((trained / "ema_w0.08_000008.pt", "would be taken for it"), ("no/new.pt", "is not there")):
        with pytest.raises(UserError, match=words):
            write_average(str(trained), str(tmp_path / name), 0.08, 0)


def test_weights_that_never_changed_come_out_as_they_are(tiny, random_weights, tmp_path):
    changes = {"ema_rate": "w0.05,w0.1", "lr": 0.0, "lr_anneal_steps": 4, "save_interval": 2}
    train(tiny(savedir=str(tmp_path / "run"), resume_checkpoint=str(random_weights), **changes), set())
    write_average(str(tmp_path / "run"), str(tmp_path / "new.pt"), 0.08, 4)
    start = torch.load(random_weights, weights_only=True)
    for name, value in read_checkpoint(str(tmp_path / "new.pt")).state_dict.items():
        torch.testing.assert_close(value, start[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("width", ["1e-160", "0", "0.3", "nan"])
def test_widths_out_of_range_are_one_line(trained, tmp_path, capsys, width):
    words = ["--savedir", str(trained), "--width", width, "--save_as", str(tmp_path / "average.pt")]
    assert launch.run(image_average.main, image_average.AverageSettings, args=words) == 2
    assert "--width" in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_several_processes_are_refused_before_any_writes(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    settings = image_average.AverageSettings(savedir=str(trained), save_as=str(tmp_path / "average.pt"))
    with pytest.raises(AgreedError, match="start it without a launcher"):
        image_average.main(settings, set())
    assert not (tmp_path / "average.pt").exists()


def test_names_of_others_are_no_averages(tmp_path):
    for name in ("ema_w1.2.3_000002.pt", "ema_w0_000002.pt", "ema_w0.5_000002.pt", "ema_0.9_000002.pt"):
        (tmp_path / name).write_bytes(b"")
    assert saved_averages(str(tmp_path)) == {}

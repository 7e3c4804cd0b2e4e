"""A real_dir whose training frames are all of one patient: the few frames besides are the yardstick of copies."""

import json
import shutil

import cv2
import pytest
from small_echoes import write_real, write_synthetic

from guided_diffusion.evaluation import figures

IMAGES = 24


@pytest.fixture(params=[1, 9], ids="{} held out".format)
def one_patient(tmp_path, request):
    """12 frames of one patient to train on, a few of others, and an honest set of IMAGES."""
    real = tmp_path / "real"
    write_real(real, {"training": 12, "validation": request.param})
    for kind in ("images", "sector_annotations"):
        for number, path in enumerate(sorted((real / kind / "training").iterdir())):
            path.rename(path.with_name(f"patient0001_view{number}_training.png"))
    write_synthetic(tmp_path / "made", real, IMAGES)
    return tmp_path, request.param


def judged(folder, evaluate, monkeypatch, made: str) -> dict:
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    assert evaluate(real_dir=folder / "real", synthetic_dir=folder / made, output_dir=folder / f"of {made}") == 0
    return json.loads((folder / f"of {made}" / "evaluation.json").read_text())["memorisation"]


def test_honest_images_are_no_copies_and_copies_are(one_patient, evaluate, monkeypatch, capsys):
    folder, held_out = one_patient
    honest = judged(folder, evaluate, monkeypatch, "made")
    assert honest["held_out_images"] == held_out and not honest["held_out_are_training"]
    assert honest["copies"] <= IMAGES // 10
    assert f"These are {held_out} frames alone: a rough judgement." in capsys.readouterr().out
    shutil.copytree(folder / "made", folder / "spoilt")
    frames = sorted((folder / "real" / "images" / "training").iterdir())
    planted = sorted((folder / "spoilt" / "samples").iterdir())[:5]
    for frame, path in zip(frames[3:], planted, strict=False):
        cv2.imwrite(str(path), cv2.imread(str(frame), 0)[:, ::-1])
    spoilt = judged(folder, evaluate, monkeypatch, "spoilt")
    named = {one["image"]: one["training_frame"] for one in spoilt["named"]}
    assert {path.stem: frame.stem for frame, path in zip(frames[3:], planted, strict=False)}.items() <= named.items()
    assert len(named) <= 5 + IMAGES // 10

"""image_sample.py --blank_outside: black outside the sector, all else as it was."""

import csv
import json
from pathlib import Path

import pytest
from sampled_images import manifest, names, png

from command import UserError
from config import Settings
from guided_diffusion.data.description import outside_of


def test_what_lies_outside_the_sector_is_black_and_all_else_as_it_was(complete, command, tmp_path, pictures):
    assert command(blank_outside=True)[0] == 0
    hazy = 0
    for name in sorted(names(complete)):
        made = png(tmp_path / f"results/samples/{name}.png")
        outside = png(tmp_path / f"results/labels/{name}.png") == 0
        assert not made[outside].any()
        plain = png(complete / f"samples/{name}.png")
        assert (made[~outside] == plain[~outside]).all()
        hazy += int((plain[outside] > 0).sum())
    assert hazy > 0  # there was something to blank
    assert {row["blank_outside"] for row in manifest(tmp_path / "results")} == {"True"}


def test_the_outside_is_that_of_the_description(pictures, tmp_path):
    content = json.loads((Path(__file__).parents[3] / "semantic_diffusion_model/camus.json").read_text())
    content["sector"] |= {"outside": content["sector"]["inside"], "inside": content["sector"]["outside"]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert outside_of(Settings(datadir=str(tmp_path))) == content["sector"]["outside"] != outside_of(Settings())


def test_no_outside_is_blanked_where_none_is_described(command, tmp_path):
    code, _, err = command(blank_outside=True, dataset_mode="folder")
    assert code == 2 and "error: blank_outside: datadir" in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()
    with pytest.raises(UserError, match="labels are not looked at"):
        outside_of(Settings(class_cond=False))


def test_a_manifest_from_before_the_outside_could_be_blanked_is_gone_on_with(command, tmp_path):
    command(num_samples=3)
    path = tmp_path / "results/manifest.csv"
    rows = manifest(tmp_path / "results")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "blank_outside"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    code, out, _ = command(num_samples=5)
    assert code == 0 and "(2 of them made now)" in out
    assert command(num_samples=6, blank_outside=True)[0] == 2
    assert manifest(tmp_path / "results")[0]["blank_outside"] == "False"

"""Labels of synthetic frames before the cut at the cone: where they are found, and when they are refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from preparing import prepare, sample

from dataset_description import camus as camus_description
from names import ALL_VIEWS, parse_stem
from view_folders import encode_png, read_image


def expected_whole(augmented: Path, out: Path) -> int:
    """Checks that each synthetic label in `out` is the whole annotation of its deformed map; how many the cone cuts."""
    cut = 0
    for path in [path for path in (out / ALL_VIEWS / "annotations").rglob("*.png") if path.parent.name != "testing"]:
        stem = parse_stem(path.stem)
        name = f"{stem.source}_{stem.repeat}.png"
        made = augmented / f"{stem.view}_augmented"
        label, whole = read_image(path), read_image(made / "annotations" / stem.split / name)
        assert np.array_equal(label, whole)
        cut += (
            camus_description().from_conditions(read_image(made / "sector_annotations" / stem.split / name)) != label
        ).any()
    return cut


@pytest.mark.parametrize("place", [None, ".", "one", "all"])
def test_whole_labels(run, extracted, augmented, results, tmp_path, place):
    """From where the manifest says, a folder of view folders, one view folder (two rounds), that of all views."""
    flags = ["--labels", "whole"] if place else []  # it is the default
    if place == "one":
        shutil.rmtree(results / "results_4CH_ES")
        flags += ["--augmented_folder", augmented / "2CH_ED_augmented"]
        sample(augmented / "2CH_ED_augmented", results / "results_2CH_ED", "_r1")
    elif place == "all":
        shutil.copytree(augmented / "all_views_augmented", tmp_path / "moved/all_views_augmented")
        flags += ["--augmented_folder", tmp_path / "moved"]
    elif place:
        flags += ["--augmented_folder", augmented]
    if place:
        manifest = results / "results_2CH_ED/manifest.csv"
        lines = [line.split(",") for line in manifest.read_text().splitlines()]
        manifest.write_text("\n".join(f"{stem},gone" if stem != "stem" else "stem,label_map" for stem, _ in lines))
    outcome = prepare(run, extracted, results, tmp_path / "out", *flags)
    assert outcome.code == 0, outcome.err
    assert expected_whole(augmented, tmp_path / "out") > 4, "cone and whole must differ for this to show anything"


def test_whole_labels_of_resized_samples(run, extracted, augmented, tmp_path):
    """image_sample.py --img_size 32 brings the label maps to its size, as Pillow's nearest neighbour does."""
    results = tmp_path / "results"
    sample(augmented / "2CH_ED_augmented", results)
    for path in [*(results / "samples").iterdir(), *(results / "labels").iterdir()]:
        Image.open(path).resize((32, 32), Image.NEAREST).save(path)
    views = Path(shutil.copytree(extracted, tmp_path / "views"))
    for path in views.rglob("*.png"):
        Image.open(path).resize((32, 32), Image.NEAREST).save(path)
    assert prepare(run, views, results, tmp_path / "out", "--labels", "whole").code == 0
    name = next((tmp_path / "out/2CH_ED/annotations/training").iterdir()).name
    whole = Image.open(augmented / "2CH_ED_augmented/annotations/training" / name).resize((32, 32), Image.NEAREST)
    assert np.array_equal(read_image(tmp_path / "out/2CH_ED/annotations/training" / name), np.asarray(whole))


def test_whole_labels_that_are_missing_or_others(run, extracted, augmented, results, tmp_path):
    made = Path(shutil.copytree(augmented, tmp_path / "augmented"))
    files = sorted((made / "2CH_ED_augmented/annotations/training").iterdir())
    for folder in ("2CH_ED_augmented", "all_views_augmented"):
        (made / folder / "annotations/training" / files[0].name).unlink()
    files[1].write_bytes(files[2].read_bytes())
    files[3].write_bytes(encode_png(np.full((64, 64), 9, np.uint8)))
    files[4].write_bytes(b"")
    flags = ("--labels", "whole", "--augmented_folder", made)
    outcome = prepare(run, extracted, results, tmp_path / "out", *flags)
    samples = results / "results_2CH_ED/samples"
    assert outcome.code == 2 and "4 problems with the input" in outcome.err
    for message in (
        f"{samples / files[0].name}: its label map before the cut at the cone, {files[0]}, is missing",
        f"{files[1]} is another label map than {results / 'results_2CH_ED/labels' / files[1].name}, sampled for",
        f"{files[3]} has label values outside 0-3: 9",
        f"{files[4]} is empty (0 bytes)",
    ):
        assert message in outcome.err, message
    outcome = prepare(run, extracted, results, tmp_path / "out", *flags[:3], extracted)
    assert outcome.code == 2 and f"--augmented_folder {extracted} is no <view>_augmented" in outcome.err
    assert not any((tmp_path / "out").iterdir())


def test_a_manifest_names_no_foreign_file(run, extracted, augmented, results, tmp_path):
    manifest = results / "results_2CH_ED/manifest.csv"
    lines = manifest.read_text().splitlines()
    lines[1] = f"{lines[1].split(',')[0]},/etc/passwd"
    lines[2] = f"{lines[2].split(',')[0]},{lines[3].split(',')[1]}"
    manifest.write_text("\n".join(lines))
    lines[4] = f"{lines[4].split(',')[0]},gone/{'/'.join(lines[4].split('/')[-3:])}"
    lines[5] = f"{lines[5].split(',')[0]},gone/{'/'.join(lines[5].split('/')[-3:])}"
    manifest.write_text("\n".join(lines))
    (results / "results_4CH_ES/manifest.csv").unlink()
    outcome = prepare(run, extracted, results, tmp_path / "out", "--labels", "whole")
    assert outcome.code == 2 and "4 problems with the input" in outcome.err
    assert f"{manifest.parent}: the label maps that its manifest.csv names are not in gone: give --aug" in outcome.err
    assert "manifest.csv names /etc/passwd as its label map, not …/sector_annotations/" in outcome.err
    assert f"manifest.csv names {lines[3].split(',')[1]} as its label map" in outcome.err
    assert f"{results / 'results_4CH_ES'} has no manifest.csv, which says where its label maps lie" in outcome.err
    outcome = prepare(run, extracted, results, tmp_path / "out", "--labels", "cone")
    assert outcome.code == 0, "the published rule needs no label maps"
    flags = ("--labels", "cone", "--augmented_folder", augmented)
    outcome = prepare(run, extracted, results, tmp_path / "other", *flags)
    assert outcome.code == 2 and f"--augmented_folder {augmented} is for --labels whole" in outcome.err


def test_the_label_maps_are_never_replaced(run, extracted, augmented, tmp_path, tree):
    made = Path(shutil.copytree(augmented / "2CH_ED_augmented", tmp_path / "out/2CH_ED"))
    sample(made, tmp_path / "results")
    before = tree(tmp_path / "out")
    flags = ("--labels", "whole", "--overwrite", "True")
    outcome = prepare(run, extracted, tmp_path / "results", tmp_path / "out", *flags)
    assert outcome.code == 2 and "would be replaced" in outcome.err and tree(tmp_path / "out") == before

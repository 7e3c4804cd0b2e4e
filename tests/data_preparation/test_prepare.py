"""prepare_inference4segmentation: from sampling results to training folders of the segmentation."""

import shutil
from pathlib import Path

import numpy as np
from preparing import VIEWS, names, prepare, sample

from dataset_description import camus as camus_description
from names import ALL_VIEWS
from view_folders import encode_png, read_image, read_metadata


def test_all_views_of_the_results(run, extracted, results, tmp_path):
    out = tmp_path / "out"
    outcome = prepare(run, extracted, results, out, "--labels", "cone")
    assert outcome.code == 0
    assert "32 synthetic training, 4 synthetic validation and 2 real test images" in outcome.out
    assert names(out) == {*VIEWS, ALL_VIEWS}
    together = {}
    for view in VIEWS:
        for split in ("training", "validation"):
            source = results / f"results_{view}"
            expected = {name for name in names(source / "samples") if split in name}
            assert names(out / view / "images" / split) == names(out / view / "annotations" / split) == expected
            for name in expected:
                image, label = (read_image(out / view / kind / split / name) for kind in ("images", "annotations"))
                assert np.array_equal(image, read_image(source / "samples" / name)) and image.ndim == 2
                assert np.array_equal(label, camus_description().from_conditions(read_image(source / "labels" / name)))
        for kind in ("images", "annotations"):
            assert names(out / view / kind / "testing") == names(extracted / view / kind / "testing")
            for name in names(out / view / kind / "testing"):
                real, copied = (read_image(root / view / kind / "testing" / name) for root in (extracted, out))
                assert np.array_equal(real, copied)
        together |= {path.relative_to(out / view): path.read_bytes() for path in (out / view).rglob("*.png")}
    found = {path.relative_to(out / ALL_VIEWS): path.read_bytes() for path in (out / ALL_VIEWS).rglob("*.png")}
    assert found == together and len(found) == 2 * (32 + 4 + 2)


def test_metadata_of_every_image(run, extracted, results, tmp_path):
    assert prepare(run, extracted, results, tmp_path / "out").code == 0
    rows = read_metadata(tmp_path / "out" / ALL_VIEWS)
    known = read_metadata(extracted / ALL_VIEWS)
    assert set(rows) == {path.stem for path in (tmp_path / "out" / ALL_VIEWS / "images").rglob("*.png")}
    for stem, row in rows.items():
        source = known[stem.rsplit("_", 1)[0] if stem[-1].isdigit() else stem]
        assert {**row, "stem": source["stem"]} == source


def test_one_results_folder_one_view_folder_and_repeated_rounds(run, extracted, augmented, tmp_path):
    for suffix in ("", "_r1", "_r2"):
        sample(augmented / "2CH_ED_augmented", tmp_path / "results", suffix)
    assert prepare(run, extracted / "2CH_ED", tmp_path / "results", tmp_path / "out").code == 0
    assert len(names(tmp_path / "out/2CH_ED/images/training")) == 3 * 16
    assert len(names(tmp_path / "out/2CH_ED/annotations/testing")) == 1
    assert {row["ef"] != "" for row in read_metadata(tmp_path / "out/2CH_ED").values()} == {True}


def test_test_frames_from_all_views(run, extracted, results, tmp_path):
    assert prepare(run, extracted / ALL_VIEWS, results, tmp_path / "out").code == 0
    assert names(tmp_path / "out/4CH_ES/images/testing") == names(extracted / "4CH_ES/images/testing")


def test_workers_change_nothing(run, extracted, results, tmp_path, tree):
    for workers in (0, 2):
        assert prepare(run, extracted, results, tmp_path / f"out{workers}", "--num_workers", workers).code == 0
    assert tree(tmp_path / "out0") == tree(tmp_path / "out2")


def test_existing_output(run, extracted, results, tmp_path, tree):
    out = tmp_path / "out"
    assert prepare(run, extracted, results, out).code == 0
    before = tree(out)
    shutil.rmtree(results / "results_4CH_ES")
    outcome = prepare(run, extracted, results, out)
    assert outcome.code == 2 and "already holds 2CH_ED, 4CH_ES, all_views" in outcome.err and tree(out) == before
    assert prepare(run, extracted, results, out, "--overwrite", "True").code == 0
    assert names(out) == {"2CH_ED", ALL_VIEWS}  # nothing of the run before
    assert not list((out / ALL_VIEWS).rglob("*4CH*"))


def test_every_problem_is_listed(run, extracted, results, tmp_path):
    samples = sorted((results / "results_2CH_ED/samples").iterdir())
    labels = sorted((results / "results_2CH_ED/labels").iterdir())
    samples[0].write_bytes(b"")
    labels[1].unlink()
    samples[2].unlink()
    labels[3].write_bytes(encode_png(np.full((64, 64), 5, np.uint8)))
    labels[4].write_bytes(encode_png(np.zeros((64, 65), np.uint8)))
    for folder in (samples[5].parent, labels[5].parent):
        shutil.copy(labels[5], folder / "patient0001_2CH_ED_testing_0.png")
        shutil.copy(labels[5], results / "results_4CH_ES" / folder.name / labels[5].name)
        shutil.copy(labels[5], folder / "picture.png")
    testing = Path(shutil.copytree(extracted, tmp_path / "extracted"))
    shutil.rmtree(testing / "4CH_ES")
    shutil.rmtree(testing / ALL_VIEWS)
    outcome = prepare(run, testing, results, tmp_path / "out", "--labels", "cone")
    assert outcome.code == 2 and "14 problems with the input" in outcome.err
    for message in (
        f"{samples[0]} is empty (0 bytes)",
        f"{samples[1]} has no label map",
        f"{labels[2]} has no image",
        f"{samples[1].parent / samples[1].stem}.png is missing, but stands in manifest.csv",
        f"{samples[2]} is missing, but stands in manifest.csv",
        f"{labels[3]} has label values outside 0-4: 5",
        f"{samples[4]} is 64 x 64 pixels, its label {labels[4].name} 64 x 65",
        "patient0001_2CH_ED_testing_0.png is synthetic and says testing",
        f"{samples[0].parent / 'patient0001_2CH_ED_testing_0.png'} does not stand in manifest.csv",
        f"{results / 'results_4CH_ES' / 'samples' / samples[5].name} does not stand in manifest.csv",
        f"has the same name as {samples[5]}: results of two runs?",
        "picture.png: 'picture' is not <patient>_<view>_<split>",
        f"{testing} has no test frames of 4CH_ES",
    ):
        assert message in outcome.err, message
    assert not any((tmp_path / "out").iterdir())


def test_images_of_two_sizes(run, releases, results, tmp_path):
    big = ("--camus_data_folder", releases["nifti"], "--save_folder_path", tmp_path / "big", "--save_img_size", 128)
    assert run("extract_camus_data", *big).code == 0
    outcome = prepare(run, tmp_path / "big", results, tmp_path / "out")
    assert outcome.code == 2 and "images differ in size: 36 of 64 x 64" in outcome.err
    assert "2 of 128 x 128" in outcome.err and "--save_img_size" in outcome.err


def test_the_testing_data_is_never_replaced(run, extracted, results, tmp_path, tree):
    testing = Path(shutil.copytree(extracted, tmp_path / "extracted"))
    before = tree(testing)
    outcome = prepare(run, testing, results, testing, "--overwrite", "True")
    assert outcome.code == 2 and "would be replaced" in outcome.err and tree(testing) == before


def test_the_results_are_never_replaced(run, extracted, augmented, tmp_path, tree):
    """The sampled views lie under the very names that would be made."""
    sample(augmented / "2CH_ED_augmented", tmp_path / "results" / "2CH_ED")
    before = tree(tmp_path / "results")
    for results in (tmp_path / "results", tmp_path / "results" / "2CH_ED"):
        outcome = prepare(run, extracted, results, tmp_path / "results", "--overwrite", "True")
        assert outcome.code == 2 and "would be replaced" in outcome.err
    assert tree(tmp_path / "results") == before


def test_unfinished_or_mixed_sampling_results(run, extracted, results, tmp_path):
    manifest = results / "results_2CH_ED" / "manifest.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]) + "\n")
    assert (
        f"{lines[-1].split(',')[0]}.png does not stand in manifest.csv"
        in prepare(run, extracted, results, tmp_path / "a").err
    )
    manifest.rename(manifest.with_name("manifest.part0.csv"))
    outcome = prepare(run, extracted, results, tmp_path / "b")
    assert outcome.code == 2 and "results_2CH_ED: the sampling is not finished" in outcome.err


def test_no_results(run, extracted, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "holds no sampling results" in prepare(run, extracted, tmp_path / "nothing", tmp_path / "out").err
    assert "absent is not a folder" in prepare(run, extracted, tmp_path / "absent", tmp_path / "out").err
    assert not (tmp_path / "out").exists()

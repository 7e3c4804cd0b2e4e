"""extract_camus_data: every way in which a release, a setting or a disk can be wrong."""

import errno
import gzip
import re
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from extracting import extract, one

from medical_images import read_medical_image
from medical_writing import write_medical_image
from names import ALL_VIEWS, SPLITS
from view_folders import read_image, read_metadata


def refused(run, source, tmp_path, *messages, flags=()):
    """The error must hold all `messages`, and nothing may appear on disk."""
    outcome = extract(run, source, tmp_path / "out", *flags)
    assert outcome.code == 2 and outcome.err.count("error:") == 1 and "Traceback" not in outcome.err
    for message in messages:
        assert message in outcome.err
    out = tmp_path / "out"
    assert not out.exists() or not any(out.iterdir())
    return outcome


def test_no_release(run, tmp_path):
    (tmp_path / "photos").mkdir()
    refused(
        run, tmp_path / "photos", tmp_path, "photos is no CAMUS release: it needs database_nifti/ and database_split/"
    )
    refused(run, tmp_path / "absent", tmp_path, "absent is not a folder")


@pytest.mark.parametrize("kind", ["nifti", "mhd"])
@pytest.mark.parametrize(
    ("pattern", "missing"),
    [("*_2CH_E?*", 2), ("*_4CH_ES*", 1), ("*_2CH_ED_gt*", 1)],
    ids=["view", "phase", "label"],
)
def test_missing_files_are_all_listed_and_can_be_left_out(run, release, tmp_path, kind, pattern, missing):
    source = release(kind)
    folder = one(source, "patient0001" if kind == "nifti" else "patient0051")
    gone = [path for path in folder.glob(pattern) if path.suffix != ".raw"]
    for path in folder.glob(pattern):
        path.unlink()
    refused(run, source, tmp_path, "--skip_incomplete True", *(f"{path} is missing" for path in gone))
    outcome = extract(run, source, tmp_path / "out", "--skip_incomplete", "True", "--save_img_size", 64)
    assert outcome.code == 0 and re.search(rf"left out: (\w+)/{folder.name}, because of", outcome.err)[1] in SPLITS
    assert "36 frames of 9 patients" in outcome.out and "1 patients left out" in outcome.out
    split = "testing|validation|training" if kind == "nifti" else "training"
    assert not [p for p in (tmp_path / "out").rglob(f"{folder.name}*") if p.stem.split("_")[-1] in split]
    assert len(read_metadata(tmp_path / "out/2CH_ED")) == 9


def test_missing_means_missing_among_the_views_asked_for(run, release, tmp_path):
    source = release("nifti")
    for path in source.rglob("*_2CH_*"):
        path.unlink()
    refused(run, source, tmp_path, f"{source} has 40 problems")
    assert extract(run, source, tmp_path / "out", "--view_names", "4CH_ED", "4CH_ES").code == 0


def test_missing_and_truncated_raw(run, release, tmp_path):
    source = release("mhd")
    gone, short = one(source, "patient0051_2CH_ED.raw"), one(source, "patient0052_2CH_ED.raw")
    gone.unlink()
    short.write_bytes(short.read_bytes()[:1000])
    header = one(source, "patient0053_2CH_ED.mhd")
    header.write_text(header.read_text().replace("DimSize = ", "DimSize = forty "))
    told = (
        f"{gone} is missing",
        f"{short} cannot be read: truncated, 1000 bytes of",
        f"{header} is no MHD header",
        "has 3 problems",
    )
    refused(run, source, tmp_path, *told)


def test_all_problems_are_listed_at_once(run, release, tmp_path):
    source = release("nifti")
    frame = one(source, "patient0001_2CH_ED.nii.gz")
    write_medical_image(frame, read_medical_image(frame).pixels[:90], (0.4, 0.4))
    label = one(source, "patient0002_4CH_ED_gt.nii.gz")
    pixels = read_medical_image(label).pixels.copy()
    pixels[:2] = [[4], [255]]
    write_medical_image(label, pixels, (0.4, 0.4))
    cut = one(source, "patient0003_2CH_ES.nii.gz")
    cut.write_bytes(cut.read_bytes()[:-500])
    empty = one(source, "patient0004_2CH_ES_gt.nii.gz")
    empty.write_bytes(b"")
    text = one(source, "patient0005_4CH_ES_gt.nii.gz")
    text.write_bytes(gzip.compress(b"not an image"))
    fraction = one(source, "patient0006_4CH_ES_gt.nii.gz")
    image = sitk.Cast(sitk.ReadImage(str(fraction)), sitk.sitkFloat32) + 0.5
    sitk.WriteImage(image, str(fraction))
    body = one(source, "patient0007_4CH_ES.nii.gz")  # what is packed is short, and the packing whole
    body.write_bytes(gzip.compress(gzip.decompress(body.read_bytes())[:-700]))
    validation = source / "database_split/subgroup_validation.txt"
    validation.write_bytes(validation.read_bytes() + "Größe\n".encode("latin-1"))
    testing = source / "database_split/subgroup_testing.txt"
    twice = (source / "database_split/subgroup_training.txt").read_text().split()[0]
    testing.write_text(testing.read_text() + f"{twice}\npatientX\n")
    shutil.copytree(source / "database_nifti/patient0001", source / "database_nifti/patient0777")
    refused(
        run,
        source,
        tmp_path,
        "has 11 problems",
        f"{body} cannot be read: truncated, ",
        "e' is no patientNNNN",
        f"{frame} is 90 x",
        f"{label} has label values outside 0-3: 4, 255",
        f"{cut} cannot be read: Compressed file ended",
        f"{empty} is empty",
        f"{text} cannot be read",
        f"{fraction} has values that are no whole numbers from 0 to 255",
        f"{twice} stands in the subgroup lists of training and testing",
        "'patientX' is no patientNNNN",
        "patient0777 stands in no subgroup list",
    )


@pytest.mark.parametrize("kind", ["nifti", "mhd"])
def test_empty_subgroup(run, release, tmp_path, kind):
    source = release(kind)
    if kind == "nifti":
        (source / "database_split/subgroup_testing.txt").write_text("\n")
    else:
        shutil.rmtree(source / "testing")
    refused(run, source, tmp_path, "subgroup testing has no patients")


def test_missing_list(run, release, tmp_path):
    source = release("nifti")
    (path := source / "database_split/subgroup_validation.txt").unlink()
    refused(run, source, tmp_path, f"{path} is missing")


def test_existing_output_is_refused_or_replaced_but_never_mixed(run, releases, tmp_path, tree):
    out = tmp_path / "out"
    assert extract(run, releases["nifti"], out, "--save_img_size", 64).code == 0
    (out / "notes.txt").write_text("mine")
    before = tree(out)
    flags = ("--save_img_size", 32, "--view_names", "2CH_ED")
    outcome = extract(run, releases["mhd"], out, *flags)
    assert outcome.code == 2 and f"{out} already holds 2CH_ED, 2CH_ES, 4CH_ED, 4CH_ES, all_views" in outcome.err
    assert "--overwrite True" in outcome.err and tree(out) == before
    assert extract(run, releases["mhd"], out, *flags, "--overwrite", "True").code == 0
    after = tree(out)
    assert {path.name for path in out.iterdir()} == {"2CH_ED", ALL_VIEWS, "notes.txt"}
    assert after["notes.txt"] == b"mine"
    assert {read_image(path).shape for path in (out / ALL_VIEWS).rglob("*.png")} == {(32, 32)}
    assert {path.stem[:11] for path in (out / ALL_VIEWS / "images/training").iterdir()} == {
        *(f"patient{number:04d}" for number in range(51, 59))
    }


def test_no_space_left(run, releases, tmp_path, monkeypatch, tree):
    out = tmp_path / "out"
    assert extract(run, releases["nifti"], out, "--save_img_size", 64).code == 0
    before, write, written = tree(out), Path.write_bytes, []

    def full(path, data):
        written.append(path)
        if len(written) > 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    outcome = extract(run, releases["nifti"], out, "--overwrite", "True")
    assert outcome.code == 2 and "No space left on device" in outcome.err and len(written) > 30
    assert tree(out) == before and not [path for path in out.iterdir() if path.name.startswith(".")]


def test_interrupted(run, releases, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("resizing.resize_nearest", stop)
    outcome = extract(run, releases["nifti"], tmp_path / "out")
    assert outcome.code == 130 and not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--save_img_size", 8), "--save_img_size 8 8: one or two numbers from 16"),
        (("--save_img_size", 64, 64, 64), "one or two numbers"),
        (("--view_names", "3CH_ED"), "3CH_ED"),
        (("--num_workers", -2), "--num_workers -2"),
        (("--spacing_mm", 0), "--spacing_mm 0.0: input should be greater than 0"),
        (("--spacing_mm", 1001), "--spacing_mm 1001.0: input should be less than or equal to 1000"),
        (("--spacing_mm", 0.3, 0.3, 0.3), "--spacing_mm 0.3 0.3 0.3: one or two numbers"),
    ],
)
def test_impossible_settings(run, releases, tmp_path, flags, message):
    refused(run, releases["nifti"], tmp_path, message, flags=flags)


def test_a_release_in_a_folder_to_be_made_is_not_replaced(run, releases, tmp_path, tree):
    source = shutil.copytree(releases["mhd"], tmp_path / "out" / ALL_VIEWS)
    outcome = extract(run, source, tmp_path / "out", "--overwrite", "True")
    assert outcome.code == 2 and f"{source}, which is read here, would be replaced" in outcome.err
    assert tree(source) == tree(releases["mhd"])


def test_data_of_ones_own_beside_the_views_stay(run, releases, tmp_path, tree):
    own = tmp_path / "out" / "fetal"
    for kind in ("images", "annotations"):
        (own / kind).mkdir(parents=True)
        (own / kind / "a.png").write_bytes(b"years of work")
    (own / "dataset.json").write_text(
        '{"name": "x", "names": {"pattern": "(?P<patient>.)"}, "classes": [{"name": "none"}, {"name": "head"}]}'
    )
    before = tree(own)
    outcome = extract(run, releases["nifti"], tmp_path / "out", "--save_img_size", 32, "--overwrite", "True")
    assert outcome.code == 0 and tree(own) == before

"""The folder of a sampling: whole files, a manifest that survives crashes, and what is kept, refused or replaced."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import UserError
from guided_diffusion.runs import storage
from guided_diffusion.sampling.results import COLUMNS, FOLDERS, Results, Row, settle

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def row(stem: str, index: int = 0, **changes) -> Row:
    about = {field.name: f"some {field.name}" for field in dataclasses.fields(Row)}
    about |= {"seed": 0, "steps": 20, "eta": 0.0, "guidance_scale": 1.0, "clip_denoised": True, "round": 0}
    return Row(**about | {"stem": stem, "index": index} | changes)


def rows(*stems: str, **changes) -> list[Row]:
    return [row(stem, index, **changes) for index, stem in enumerate(stems)]


def make(folder: Path, wanted: list[Row], rank: int = 0, overwrite: bool = False) -> list[str]:
    """What a sampling of `wanted` does to the folder, without the network; returns what it had to make."""
    to_make = settle(Results(str(folder), rank), wanted, overwrite)
    results = Results(str(folder), rank)
    for one in wanted:
        if one.stem in to_make:
            for kind in FOLDERS:
                results.write_png(kind, one.stem, PICTURE)
            results.add([one])
    return to_make


def finish(folder: Path) -> list[str]:
    """Merge the parts; the stems of the manifest in its order."""
    results = Results(str(folder), 0)
    results.merge(results.made().values())
    with open(folder / "manifest.csv", newline="") as file:
        return [line["stem"] for line in csv.DictReader(file)]


def test_names_may_hold_what_ends_lines(tmp_path):
    """A carriage return ends a line of a table as well, unless it is quoted."""
    names = ["a\rb", "c\nd", "e\r\nf", 'g"h', "i,j", "k\u2028l"]
    wanted = rows(*names, label_map="folder\rof\n/label.png")
    make(tmp_path, wanted)
    assert finish(tmp_path) == names
    assert settle(Results(str(tmp_path), 0), wanted, False) == []


def test_an_image_whose_real_one_is_not_beside_it_is_made_again(tmp_path):
    wanted = rows("a", "b", "c")
    make(tmp_path, wanted)
    finish(tmp_path)
    for stem in ("a", "b"):
        (tmp_path / "images" / f"{stem}.png").unlink()
    assert settle(Results(str(tmp_path), 0), wanted, False, real=()) == []
    assert settle(Results(str(tmp_path), 0), wanted, False, real=("b", "c")) == ["b"]


def test_pictures_are_written_whole_and_as_they_are(tmp_path):
    results = Results(str(tmp_path), 0)
    results.create_folders()
    results.write_png("samples", "grey", PICTURE[..., 0])
    results.write_png("samples", "colour", PICTURE)
    for name, mode, pixels in (("grey", "L", PICTURE[..., 0]), ("colour", "RGB", PICTURE)):
        picture = Image.open(tmp_path / "samples" / f"{name}.png")
        assert picture.mode == mode and (np.asarray(picture) == pixels).all()
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["colour.png", "grey.png"]


def test_parts_of_all_ranks_are_merged_in_the_order_of_the_job(tmp_path):
    results = [Results(str(tmp_path), rank) for rank in range(3)]
    for index in (5, 2, 1, 4, 0, 3):
        results[index % 3].add([row(f"p{index}", index)])
    assert results[0].count_parts() == 6
    assert finish(tmp_path) == [f"p{i}" for i in range(6)]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_row_cut_short_is_made_again(tmp_path, cut):
    """As if a crash had come while a row was written; the manifest of an earlier run is there too."""
    wanted = rows("a", "b", "c", "d")
    make(tmp_path, wanted[:1])
    finish(tmp_path)
    make(tmp_path, wanted[:3], rank=1)
    part = tmp_path / "manifest.part1.csv"
    part.write_bytes(part.read_bytes()[:-cut])
    assert settle(Results(str(tmp_path), 0), wanted, False) == ["c", "d"]
    assert not part.exists(), "parts left by a crash are merged"
    assert make(tmp_path, wanted) == ["c", "d"]
    assert finish(tmp_path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_killed_again_before_its_first_row_is_still_unfinished(tmp_path, rank):
    """By the check of `prepare_inference4segmentation.py` too, which goes by the names of files alone."""
    from sampling_results import check_manifest  # of data_preparation

    wanted = rows("a", "b", "c", "d")
    make(tmp_path, wanted[:2], rank)
    if rank:  # all that was there before parts were written that are empty
        (tmp_path / "manifest.part0.csv").unlink()
    for _ in range(3):  # started, killed
        results = Results(str(tmp_path), 0)
        assert settle(results, wanted, False) == ["c", "d"]
        assert [path.name for path in tmp_path.glob("manifest.part*")] == ["manifest.part0.csv"]
        assert results.is_unfinished() and results.count_parts() == 0
        assert list(results.made()) == ["a", "b"]
        (problem,) = check_manifest(tmp_path, ["a", "b"])
        assert "the sampling is not finished" in problem
    assert make(tmp_path, wanted) == ["c", "d"] and Results(str(tmp_path), 0).count_parts() == 2
    assert (tmp_path / "manifest.part0.csv").read_text().count("stem,") == 1
    assert finish(tmp_path) == ["a", "b", "c", "d"] and not check_manifest(tmp_path, "abcd")
    assert settle(Results(str(tmp_path), 0), wanted, False) == [] and not Results(str(tmp_path), 0).is_unfinished()


@pytest.mark.parametrize("killed_in", ["write_whole", "remove"])
def test_a_job_killed_while_it_brings_the_folder_in_order_is_unfinished(tmp_path, monkeypatch, killed_in):
    """At each write and removal in turn, of a finished set of which one image is to be replaced."""
    wanted = [row("a"), row("b", 1, label_sha256="a new label map")]
    original, left = getattr(storage, killed_in), 0
    for kept in range(20):
        folder = tmp_path / str(kept)
        make(folder, rows("a", "b"))
        finish(folder)
        left = kept

        def killed(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(storage, killed_in, killed)
        try:
            settle(Results(str(folder), 0), wanted, True)
        except KeyboardInterrupt:
            whole = len(Results(str(folder), 0).with_files()) == 2
            assert whole or Results(str(folder), 0).is_unfinished()
        else:
            break
        finally:
            monkeypatch.setattr(storage, killed_in, original)
    assert 0 < kept < 19 and Results(str(folder), 0).is_unfinished()


@pytest.mark.parametrize("content", ["", "stem,lab", ",".join(COLUMNS)])
def test_a_part_cut_in_its_header_holds_nothing(tmp_path, content):
    (tmp_path / "manifest.part2.csv").write_text(content)
    assert make(tmp_path, rows("a")) == ["a"]
    assert finish(tmp_path) == ["a"]


def test_a_row_without_its_files_is_made_again(tmp_path):
    wanted = rows("a", "b")
    make(tmp_path, wanted)
    (tmp_path / "combined" / "a.png").unlink()
    assert make(tmp_path, wanted) == ["a"]


def test_a_longer_and_a_shorter_job_keep_what_is_there(tmp_path):
    wanted = rows("a", "b", "c", "d")
    assert make(tmp_path, wanted[:2]) == ["a", "b"]
    assert make(tmp_path, wanted) == ["c", "d"]
    assert make(tmp_path, wanted[:1]) == []
    assert finish(tmp_path) == ["a", "b", "c", "d"]
    assert all((tmp_path / "samples" / f"{stem}.png").exists() for stem in "abcd")


def test_another_order_moved_data_and_a_moved_checkpoint_are_the_same_job(tmp_path):
    make(tmp_path, rows("a", "b"))
    again = [row("b", 0, label_map="elsewhere"), row("a", 1, checkpoint="elsewhere")]
    assert make(tmp_path, again) == []
    assert finish(tmp_path) == ["b", "a"]


FREE = {"stem", "label_map", "index", "checkpoint"}


@pytest.mark.parametrize("name", [column for column in COLUMNS if column not in FREE])
def test_other_settings_are_refused_and_overwritten_when_told(tmp_path, name):
    make(tmp_path, rows("a", "b"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".png"}
    other = rows("a", "b", **{name: "other"})
    with pytest.raises(UserError, match=rf"2 images made with other settings \(a: {name} .* not other\).*--overwrite"):
        make(tmp_path, other)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert make(tmp_path, other, overwrite=True) == ["a", "b"]
    assert finish(tmp_path) == ["a", "b"] and make(tmp_path, other) == []


def test_overwrite_replaces_only_what_differs(tmp_path):
    make(tmp_path, rows("a", "b", "c"))
    changed = [row("a", 0), row("b", 1, label_sha256="a new label map"), row("c", 2)]
    stamp = (tmp_path / "samples" / "a.png").stat().st_mtime_ns
    assert make(tmp_path, changed, overwrite=True) == ["b"]
    assert (tmp_path / "samples" / "a.png").stat().st_mtime_ns == stamp


def test_images_of_other_settings_go_with_overwrite_even_if_no_longer_asked_for(tmp_path):
    make(tmp_path, rows("a", "b", "c", seed=5))
    assert make(tmp_path, rows("a"), overwrite=True) == ["a"]
    assert finish(tmp_path) == ["a"]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "name", [*(f"{kind}/a.png" for kind in FOLDERS), "metadata.csv", "dataset.json", "preview.png"]
)
def test_what_nobody_knows_the_origin_of_is_refused(tmp_path, name):
    for folder in FOLDERS:  # empty ones are of a job that was killed before its first file
        (tmp_path / folder).mkdir()
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]} without a manifest"):
        make(tmp_path, rows("a"))
    assert (tmp_path / name).read_bytes() == b"somebody's"
    assert make(tmp_path, rows("a"), overwrite=True) == ["a"]


def test_a_manifest_of_something_else_is_refused(tmp_path):
    (tmp_path / "manifest.csv").write_text("name,size\nx,3\n")
    with pytest.raises(UserError, match="the columns stem, index are missing"):
        make(tmp_path, rows("a"))


def test_object_storage_paths(tmp_path, monkeypatch):
    """Every path goes through blobfile here, as gs:// and az:// paths do; blobfile can do the same on a disk."""
    monkeypatch.setattr("guided_diffusion.runs.storage.is_remote", lambda path: True)
    folder = tmp_path / "deep" / "results"
    wanted = rows("a", "b", "c")
    assert make(folder, wanted[:2], rank=1) == ["a", "b"]
    assert make(folder, wanted, rank=2) == ["c"]
    assert finish(folder) == ["a", "b", "c"]
    assert (np.asarray(Image.open(folder / "samples" / "c.png")) == PICTURE).all()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("part", ["manifest.csv", "manifest.part3.csv"])
@pytest.mark.parametrize("stem", ["../../outside", "{outside}", "..\\..\\outside", "..", ""])
def test_a_manifest_whose_names_lead_elsewhere_is_refused_and_nothing_deleted(tmp_path, part, stem, overwrite):
    folder, outside = tmp_path / "results", tmp_path / "outside.png"
    make(folder, rows("a"))
    outside.write_bytes(b"somebody's")
    values = [stem.format(outside=outside.with_suffix("")), *["0"] * (len(COLUMNS) - 1)]
    (folder / part).write_text("\n".join(",".join(line) for line in (COLUMNS, values)) + "\n")
    with pytest.raises(UserError, match=f"{part}.*(no name of an image|stem: string should have)"):
        settle(Results(str(folder), 0), rows("a"), overwrite)
    assert outside.read_bytes() == b"somebody's" and (folder / "samples" / "a.png").exists()

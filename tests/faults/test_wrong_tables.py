"""Values of the wrong type or range in tables: one line, exit 2."""

import math

import pytest

from command import UserError
from guided_diffusion.sampling.results import Results
from schema import parse_csv

PROMISE = "one line, exit 2, nothing written"


HEADER = "stem,index,seed\n"
WRONG_MANIFESTS = [
    HEADER + f"a,{value},0\n" for value in ("x", "nan", "-1", "1e3", str(2**70), "9" * 5000, "", "1.5")
] + [HEADER + f"{stem},1,0\n" for stem in ("", "x" * 200_000)]
WRONG_MANIFESTS += ["stem,index,stem\na,1,b\n", "name\na\n", 'stem,index\n"a,1\n' + "b" * 200_000 + "\n"]


def test_manifests(tmp_path, survived):
    survived("wrong values in manifest.csv", PROMISE, len(WRONG_MANIFESTS))
    for text in WRONG_MANIFESTS:
        (tmp_path / "manifest.csv").write_text(text)
        with pytest.raises(UserError, match="manifest.csv") as caught:
            Results(str(tmp_path), 0).made()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


GEOMETRY = "stem,native_height,native_width,spacing_depth_mm,spacing_lateral_mm,ef\n"
WRONG_METADATA = [
    GEOMETRY + f"a,{row}\n"
    for row in ("nan,1,1,1,", "0,1,1,1,", "1,-1,1,1,", "1,1,inf,1,", "1,1,0,1,", "1,1,1,1e999,", "1,1,1,1,nan")
]
WRONG_METADATA += [
    GEOMETRY + f"a,{row}\n" for row in (f"{2**70},1,1,1,", f"{'9' * 5000},1,1,1,", "1,1", "1,1,1,1,1,1,1")
]
WRONG_METADATA += [GEOMETRY + "x" * 200_000 + ",1,1,1,1,\n"]


def test_metadata_in_both_folders_that_read_it(tmp_path, survived):
    from cases import read_metadata as of_the_segmentation
    from view_folders import read_metadata as of_the_preparation

    survived("wrong values in metadata.csv", PROMISE, 2 * len(WRONG_METADATA))
    path = tmp_path / "metadata.csv"
    path.write_text(GEOMETRY + "a,400,300,0.5,0.25,60\n")
    assert of_the_segmentation(path) == of_the_preparation(tmp_path)
    for text in WRONG_METADATA:
        path.write_text(text)
        for read, place in ((of_the_segmentation, path), (of_the_preparation, tmp_path)):
            with pytest.raises(UserError, match="metadata.csv") as caught:
                read(place)
            assert len(str(caught.value)) < 700


def test_bytes_that_are_no_table():
    for data in (b"\xff\xfe\x00", b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,a\n1,2\n"):
        with pytest.raises(UserError):
            parse_csv(data, "x")
    assert parse_csv(b"", "x") == []
    assert parse_csv(b"\xef\xbb\xbfa,b\n\n1,2\n3", "x", torn=True) == [{"a": "1", "b": "2"}]


def test_a_table_of_metrics(tmp_path):
    from rows import METRICS, NUMBERS, TEXTS, read_rows

    path = tmp_path / "metrics.csv"
    others = (*NUMBERS, *(f"lv_{metric}" for metric in METRICS if metric != "dice"))
    header = ",".join((*TEXTS, *others, "lv_dice"))
    texts = ",".join(["x" for _ in TEXTS] + ["1" for _ in others])
    path.write_text(f"{header}\n{texts},0.5\n{texts},\n")
    first, second = read_rows(path)
    assert first["lv_dice"] == 0.5 and math.isnan(second["lv_dice"]) and first["stem"] == "x"
    for value in ("nan", "inf", "x", "9" * 5000, "y" * 200_000):
        path.write_text(f"{header}\n{texts},{value}\n")
        with pytest.raises(UserError, match="metrics.csv"):
            read_rows(path)

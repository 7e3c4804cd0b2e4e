"""What a killed evaluation left is swept, in its own folder alone, and is replaced when asked; never a mix of two."""

from pathlib import Path

import pytest
from small_echoes import write_real, write_synthetic

from guided_diffusion.evaluation import figures, job
from guided_diffusion.runs import sole_use, storage

HALF = ".abcdefgh.tmp.png"


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def flags(tmp_path, monkeypatch) -> dict:
    """Of a comparison of two small sets, without figures."""
    monkeypatch.setattr(figures, "draw", lambda *_: {"nearest": Path.touch})
    monkeypatch.setattr(figures, "comparison", lambda path, **_: path.touch())
    real, *made = (tmp_path / name for name in ("real", "one", "other"))
    write_real(real, {"training": 12})
    for seed, folder in enumerate(made):
        write_synthetic(folder, real, 12, seed=seed)
    return {"real_dir": real, "compare": made, "output_dir": tmp_path / "out"}


@pytest.mark.parametrize(
    ("compared", "expected"),
    [(False, ("figures",)), (True, ("figures", "A", "A/figures", "B", "B/figures"))],
    ids=["one set", "two sets"],
)
def test_the_folders_that_are_written_to_are_swept_and_no_other(flags, evaluate, monkeypatch, compared, expected):
    swept = []
    monkeypatch.setattr(sole_use.FolderLock, "sweep", lambda _, *names: swept.append(names) or 0)
    monkeypatch.setattr(job, "measure_real", stop)
    if not compared:
        flags["synthetic_dir"] = flags.pop("compare")[0]
    assert evaluate(**flags) == 130
    assert swept == [expected]


@pytest.mark.parametrize(
    ("module", "name", "left"),
    [
        (storage, "write_whole", []),  # before the first file
        (job, "write_figures", ["evaluation.json", "evaluation.md"]),
        (job, "write_comparison", ["evaluation.json", "evaluation.md", "figures"]),
    ],
    ids=["before the first report", "before the figures of A", "before the comparison"],
)
def test_an_interrupted_comparison_is_swept_and_replaced_when_asked(
    flags, evaluate, monkeypatch, capsys, module, name, left
):
    out = flags["output_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        assert evaluate(**flags) == 130
    assert storage.list_names(str(out / "A")) == left and not (out / "evaluation.json").exists()
    halves = [folder / HALF for folder in (out, out / "A", out / "A" / "figures") if folder.is_dir()]
    for path in halves:
        path.write_text("half")
    assert evaluate(**flags) == 2
    told = capsys.readouterr()
    assert "is not empty (A)" in told.err and f"removed {len(halves)} unfinished files" in told.out
    assert evaluate(**flags, overwrite=True) == 0
    assert all((folder / "evaluation.json").is_file() for folder in (out, out / "A", out / "B"))


def test_folders_of_somebody_else_that_are_called_a_and_b_are_left_alone(flags, evaluate, capsys):
    for name in "AB":
        (flags["output_dir"] / name).mkdir(parents=True)
        (flags["output_dir"] / name / "thesis.txt").write_text("mine")
    assert evaluate(**flags, overwrite=True) == 2
    assert "holds no evaluation (A): nothing is replaced there" in capsys.readouterr().err


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OF_A_SET = {"evaluation.json", "evaluation.md", "figures/nearest.png"}
OF_A_COMPARISON = {"evaluation.json", "evaluation.md", "figures/comparison.png"} | {
    f"{name}/{path}" for name in "AB" for path in OF_A_SET
}


@pytest.fixture
def one_set(flags) -> dict:
    """The flags that evaluate the first of both sets into the same folder."""
    return {name: value for name, value in flags.items() if name != "compare"} | {"synthetic_dir": flags["compare"][0]}


def test_of_a_replaced_evaluation_nothing_is_left_beside_the_new_one(flags, one_set, evaluate):
    out = flags["output_dir"]
    assert evaluate(**flags) == 0 and files_in(out).keys() == OF_A_COMPARISON
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "mine.png").touch()
    assert evaluate(**one_set, overwrite=True) == 0
    assert files_in(out).keys() == OF_A_SET | {"notes.txt", "figures/mine.png"} and not (out / "A").exists()
    assert evaluate(**flags, overwrite=True) == 0
    assert files_in(out).keys() == OF_A_COMPARISON | {"notes.txt", "figures/mine.png"}
    (out / "A" / "thesis.txt").write_text("mine")  # somebody's folder by now: it is left as it is
    assert evaluate(**one_set, overwrite=True) == 0
    kept = {f"A/{path}" for path in (*OF_A_SET, "thesis.txt")}
    assert files_in(out).keys() == OF_A_SET | {"notes.txt", "figures/mine.png"} | kept


@pytest.mark.parametrize("name", ["write_report", "write_figures"])
def test_a_killed_replacement_does_not_pass_for_the_former_evaluation(flags, one_set, evaluate, monkeypatch, name):
    out = flags["output_dir"]
    assert evaluate(**flags) == 0
    usual, calls = getattr(job, name), []

    def stop_at_the_second(folder, *content):
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return usual(folder, *content)

    with monkeypatch.context() as patch:
        patch.setattr(job, name, stop_at_the_second)
        assert evaluate(**flags, overwrite=True) == 130
    assert (out / "A" / "evaluation.json").exists() and not (out / "evaluation.json").exists()
    assert (out / "B" / "evaluation.json").exists() == (name == "write_figures")
    assert evaluate(**one_set, overwrite=True) == 0 and files_in(out).keys() == OF_A_SET


def test_what_is_left_of_a_report_without_its_numbers_is_replaced_too(one_set, evaluate):
    """Killed when the former evaluation.json was deleted, of an evaluation that had no figures yet."""
    one_set["output_dir"].mkdir()
    (one_set["output_dir"] / "evaluation.md").write_text("former")
    assert evaluate(**one_set, overwrite=True) == 0 and files_in(one_set["output_dir"]).keys() == OF_A_SET


def test_a_picture_that_cannot_be_read_costs_no_former_evaluation(flags, evaluate, capsys):
    """Of the second set: the first one is measured by then."""
    out = flags["output_dir"]
    assert evaluate(**flags) == 0
    before = files_in(out)
    sorted((flags["compare"][1] / "samples").iterdir())[0].write_bytes(b"no picture")
    assert evaluate(**flags | {"bootstrap": 100}, overwrite=True) == 2
    assert "synthetic frames B cannot be evaluated" in capsys.readouterr().err
    assert files_in(out) == before

"""What a killed evaluation left is swept, in its own folder alone, and is replaced when asked."""

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
    monkeypatch.setattr(figures, "draw", lambda *_: {})
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

"""From a CAMUS folder to the table of the paper's claim, at the smallest size: interrupted, resumed, and dry."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"STEPS": "10", "REPEAT": "1", "SAMPLING_STEPS": "3", "UPDATES": "1", "SEEDS": "1", "RANKS": "1"}
TABLE = r"^(LV endocardium|LV epicardium|left atrium) +(\d\.\d+ \(.*?\) +){3}\d\.\d{3}$"


def environment(**changes: str) -> dict[str, str]:
    settings = {f"REPLICATE_{name}": value for name, value in (SMALL | changes).items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | settings | {"PATH": path, "OMP_NUM_THREADS": "1"}


def replicate(*words: object, **changes: str) -> subprocess.CompletedProcess:
    command = [ROOT / "pipelines" / "replicate.sh", *map(str, words)]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, timeout=1500)


def interrupt_at(text: str, *words: object, only: str = "", **changes: str) -> tuple[int, str]:
    """Start, and end all its processes as a cluster does as soon as `text` is printed: exit code, and what was printed.

    only: end the processes alone whose command has it.
    """
    command = [ROOT / "pipelines" / "replicate.sh", *map(str, words)]
    said = ""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=environment(**changes), **pipes) as run:
        for line in run.stdout:  # to the end, which comes when the last of them has gone
            said += line
            if text in line and only:
                for pid in processes_of(only, changes["FOLDER"]):
                    os.kill(pid, signal.SIGTERM)
            elif text in line:
                os.killpg(run.pid, signal.SIGTERM)
    return run.returncode, said


def processes_of(*words: str) -> list[int]:
    """Those whose command has all of `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            command = path.read_text(errors="replace")
            if all(word in command for word in words):
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "camus"
    script = ROOT / "data_preparation" / "make_phantom_camus.py"
    flags = ("--save_folder", folder, "--n_patients", "4", "--size", "128", "--num_workers", "0")
    subprocess.run([sys.executable, script, *flags], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def replicated(phantoms, tmp_path_factory) -> tuple[Path, str, subprocess.CompletedProcess]:
    """The folder of a run ended twice, in its training the second time, and then done; what the last two said."""
    folder = tmp_path_factory.mktemp("replicate") / "run"
    code, _ = interrupt_at("Deform the label maps", phantoms, "cpu64", FOLDER=str(folder))
    assert code not in (0, 2)
    # The training alone is asked to stop, which it does with exit code 0: it is not done for all that.
    code, before = interrupt_at("activations are kept", phantoms, "cpu64", only="image_train.py", FOLDER=str(folder))
    assert code == 1 and "run the same command again to go on" in before
    assert sorted(path.name for path in (folder / ".done").iterdir()) == [
        "deform",
        "diffusion_all_views.begun",
        "extract",
        "sector",
        "times",
    ]
    assert not (folder / "diffusion/all_views/model000010.pt").exists()
    other = replicate(phantoms, "cpu64", FOLDER=str(folder), STEPS="5")
    assert other.returncode == 2 and "made with other settings" in other.stderr
    return folder, before, replicate(phantoms, "cpu64", FOLDER=str(folder))


@pytest.mark.launch
@pytest.mark.timeout(1500)
def test_from_camus_to_the_table_though_interrupted(replicated, phantoms):
    folder, before, done = replicated
    assert "min left" in before and "[5/12]" not in before
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done before") == 3 and "continuing it" in done.stdout
    kept = {int(path.stem[-6:]) for path in (folder / "diffusion/all_views").glob("ema_*.pt")}
    assert kept >= {2, 4, 6, 8, 10}  # for replication.py; one more may be of the interruption
    table = (folder / "table.txt").read_text()
    assert len(re.findall(TABLE, table, re.M)) == 3, table
    assert "1 patients, in native geometry; networks of 64 x 64 pixels" in table
    assert "8 real, 8 synthetic" in table and "hours on" in table
    assert "training images: 8 of" in done.stdout and "16 in all" in done.stdout  # real and synthetic together
    sheet = cv2.imread(str(folder / "nearest.png"))
    assert sheet.shape[1] == 8 * 1.6 * 150 and sheet.std() > 10
    assert "of 8 synthetic frames: median" in (folder / "nearest.txt").read_text()
    assert re.search(r"^all_views: Synthetic frames: gCNR .* of 12 are copies", table, re.M)
    assert re.search(
        r"^\d+ of 41 differences are larger than between halves of the real patients, above all \w", table, re.M
    )
    seen = re.search(
        r"^Dice of what a network of real frames sees, by structure: (.*) in synthetic .* in real", table, re.M
    )
    assert seen and len(re.findall(r"\d\.\d{3}", seen[0])) >= 6
    report = (folder / "report.html").read_text()
    assert "phantoms, simulated" in report  # though the release was given by its path
    assert "Beside the nearest patients" in report and "drew 12 ultrasound frames" in report
    assert "in native geometry; networks of 64 x 64" in report and report.count("trained on ") > 3

    other = replicate(phantoms, "cpu64", FOLDER=str(folder), STEPS="11")
    assert other.returncode == 2 and "made with other settings" in other.stderr


@pytest.mark.launch
@pytest.mark.timeout(1500)
def test_other_seeds_and_kinds_come_later(replicated, phantoms):
    """A lower seed too: what frames show was seen by the network of the first, and is not seen again."""
    folder = replicated[0]
    kinds = "oversampled then_real real_again"
    done = replicate(phantoms, "cpu64", FOLDER=str(folder), SEEDS="0", KINDS=kinds)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done before") == 9 and "[15/15]" in done.stdout
    assert "segmentation_real_1/model.pth --input" in done.stdout
    table = (folder / "table.txt").read_text()
    assert re.search(rf"^trained on +real +synthetic +both +{' +'.join(kinds.split())} +published", table, re.M), table
    assert "real: also evaluated with seed 1, not in this table of seed 0" in table
    assert "interval: patients resampled; one seed of each" in table and "real_1  " not in table
    missing = subprocess.run(
        [sys.executable, ROOT / "pipelines/replication_table.py", folder, "cpu64", "2"], capture_output=True, text=True
    )
    assert missing.returncode == 2 and "real 0 1, synthetic 0 1, both 0 1; needed" in missing.stderr


def study(name: str, *flags: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, flags)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.timeout(1500)
def test_what_decides_is_measured_on_its_checkpoints_and_goes_on(replicated, phantoms, tmp_path):
    flags = ("--replicate_folder", replicated[0], "--camus", phantoms, "--log", tmp_path / "log.txt")
    flags += ("--seed", 1, "--frames", 8, 12, "--usual_frames", 8, "--lengths", 10)  # an interruption may leave others
    done = study("replication.py", *flags, "--steps", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    # 12 frames are the run itself, 8 some of its frames: judged alone. At 2 steps: sampled, prepared and judged.
    assert done.stdout.count("$ ") == 1 + 3
    parts = [
        replicated[0] / "what_decides" / name for name in ("segmentation_data_all_views_8", "data_10_2_8/all_views")
    ]
    names = [sorted(f"{p.parent.name}/{p.name}" for p in part.glob("images/*/*.png")) for part in parts]
    assert names[0] == names[1]  # of the same label maps, and the same real frames to test on
    assert sum("testing" not in name for name in names[0]) == 8 < len(names[0])
    rows = re.findall(r"^(\d+) +(?:\d\.\d{4} \(.+?\) +){4}Point", (tmp_path / "log.txt").read_text(), re.M)
    assert rows == ["8", "12", "2", "10"]
    assert cv2.imread(str(tmp_path / "log.png")).std() > 10
    again = study("replication.py", *flags, "--steps", 2, 4)
    assert again.returncode == 0 and again.stdout.count("$ ") == 3  # one more point
    last = max((replicated[0] / "diffusion/all_views").glob("ema_*.pt"))
    networks = ("v_0.1", "v_0.5")
    for name in networks:
        (tmp_path / name).mkdir()
        (tmp_path / name / "ema.pt").symlink_to(last)
    flags = ("--replicate_folder", replicated[0], "--camus", phantoms, "--log", tmp_path / "teaching.txt")
    flags += ("--frames", 8, "--steps", 2, "--seeds", 1)
    flags += ("--weights", *(tmp_path / name / "ema.pt" for name in networks))
    done = study("teaching.py", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("$ ") == 2 * 3  # sampled, prepared and judged
    text = (tmp_path / "teaching.txt").read_text()
    dice = re.findall(r"^v_0\.[15] +((?:\d\.\d{4} \(.+?\) *){4})$", text, re.M)
    assert len(dice) == 2 and dice[0] == dice[1]  # the same weights
    assert len(re.findall(r"^v_0\.5 .+ [+-]0\.000", text, re.M)) == 4


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.timeout(1500)
def test_few_patients_and_nobody_else(tmp_path):
    camus, work = tmp_path / "camus", tmp_path / "work"
    script = ROOT / "data_preparation" / "make_phantom_camus.py"
    flags = ("--save_folder", camus, "--n_patients", "7", "--size", "128", "--num_workers", "0")
    subprocess.run([sys.executable, script, *flags], check=True, capture_output=True)
    flags = ("--camus", camus, "--work", work, "--patients", 3, "--synthetic", 12, "--steps", 1, "--updates", 1)
    done = study("few_patients.py", *flags, "--log", tmp_path / "log.txt")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "log.txt").read_text()
    assert "3 patients, trained on" in text and "both - real, left atrium" in text
    assert cv2.imread(str(tmp_path / "log.png")).std() > 10
    chosen = {
        split: (work / "release_3" / "database_split" / f"subgroup_{split}.txt").read_text().split()
        for split in ("training", "validation", "testing")
    }
    assert [len(names) for names in chosen.values()] == [2, 1, 1]
    for pictures in ("diffusion", "views", "results", "segmentation_data"):
        assert (work / "run_3" / pictures).is_dir()
    splits = ("training", "validation", "testing")
    for pictures, seen_splits in (
        ("sector", splits),
        ("views", splits),
        ("augmented", splits),
        ("results", splits[:2]),
    ):
        seen = {path.name[:11] for path in (work / "run_3" / pictures).rglob("patient*.png")}
        assert seen == {name for split in seen_splits for name in chosen[split]}, pictures
    drawn_for = {path.name[:11] for path in (work / "run_3/segmentation_data").rglob("*/training/patient*.png")}
    assert drawn_for == {*chosen["training"]}
    log = (work / "run_3/diffusion/all_views/log.txt").read_text()
    assert "8 training images, " in log, log  # two patients, two views, two phases


def test_what_cannot_be_run_is_told_before_anything_is_made(tmp_path):
    folder = {"FOLDER": str(tmp_path / "run")}
    told = {
        (str(tmp_path / "no"),): "is neither a folder",
        (): "name the folder of a CAMUS release",
        (tmp_path, "cpu65"): "'cpu65' is neither",
        (tmp_path, ""): "'' is neither",
        (tmp_path, "cpu64", "gpu256"): "two scales, cpu64 and gpu256",
        (tmp_path, ROOT): f"two folders, {tmp_path} and {ROOT}",
    }
    for words, text in told.items():
        done = replicate(*words, **folder)
        assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1
    assert "REPLICATE_STEPS: 'many' is no whole number" in replicate(tmp_path, STEPS="many", **folder).stderr
    for seeds in (" ", "0 one", "0,1", "*", "007", "-1"):
        done = replicate(tmp_path, SEEDS=seeds, **folder)
        assert done.returncode == 2 and f"REPLICATE_SEEDS: '{seeds}' are no whole numbers" in done.stderr
    assert "REPLICATE_SEEDS: '0 1  0' has a seed twice" in replicate(tmp_path, SEEDS="0 1  0", **folder).stderr
    wrong_kind = replicate(tmp_path, KINDS="then_real best", **folder)
    assert wrong_kind.returncode == 2 and "REPLICATE_KINDS: 'then_real best' are not some of" in wrong_kind.stderr
    twice = replicate(tmp_path, KINDS="oversampled then_real oversampled", **folder)
    assert twice.returncode == 2 and "has a kind twice" in twice.stderr
    assert "REPLICATE_DEVICE: 'tpu' is neither" in replicate(tmp_path, DEVICE="tpu", **folder).stderr
    assert "does not divide the batch" in replicate(tmp_path, RANKS="3", **folder).stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pipeline", ["replicate", "demo"])
def test_a_folder_of_ones_own_is_not_taken(pipeline, tmp_path):
    """Its views, sector or augmented would be replaced."""
    mine = tmp_path / "data/views/2CH_ED/mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    words = [ROOT / "pipelines" / f"{pipeline}.sh", tmp_path]
    settings = environment(FOLDER=str(tmp_path / "data")) | {"DEMO_FOLDER": str(tmp_path / "data")}
    done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 2
        and "holds views, and is no folder of this pipeline" in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert mine.read_text() == "mine" and len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("scale", ["cpu64", "cpu128", "gpu256"])
def test_a_dry_run_goes_to_the_end_and_leaves_nothing(scale, tmp_path, monkeypatch):
    before = set(ROOT.iterdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it works
    done = replicate("--dry-run", scale, RANKS="8" if scale == "gpu256" else "2", SEEDS="0 1 2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{4 + 5 * (4 if scale == 'gpu256' else 1) + 9} commands read and checked" in done.stdout
    assert f"dry run of {scale}: all is well" in done.stdout
    assert set(ROOT.iterdir()) == before
    assert not list(tmp_path.iterdir())

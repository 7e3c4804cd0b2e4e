"""The commands of README and docs, as they stand there, in their order: from phantoms to a segmentation judged.

All are read and checked as they are. Then they run on phantoms, where only sizes are changed, by the tables below,
whose entries must all be found. The pages of docs go on from what the README's commands made.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "pipelines"))
import check_commands  # noqa: E402

FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")
TINY = "--img_size 32 --num_channels 32 --channel_mult 1,2 --num_res_blocks 1 --attention_resolutions 16"
TRAINING = "--lr_anneal_steps 2 --num_workers 0 --preview_steps 0 --device cpu"
EVALUATION = "--bootstrap 100 --ssim_pairs 10 --device cpu"
SEGMENTATION = "--epochs 1 --img-size 64 --num-workers 0 --gpu cpu"
JUDGING = "--img-size 64 --num-workers 0 --gpu cpu"
PUBLISHED = {
    "mpiexec -np 8": "mpiexec -np 2",
    "--batch_size_train 12": "--batch_size_train 1 --num_workers 0 --device cpu",
    "--lr_anneal_steps 50000": "--lr_anneal_steps 2",
    "--img_size 256": f"{TINY} --num_head_channels 32",
}
NARROW = "--num_channels 32 --channel_mult 1,1,2 --num_res_blocks 1 --attention_resolutions 16"
SMALLER = {
    "README.md": PUBLISHED
    | {
        "--n_patients 40": "--n_patients 10 --size 64 --num_workers 0",
        "--save_img_size 64 --image_interpolation area": "--save_img_size 32 --num_workers 0",
        "--save_folder ./data/sector": "--save_folder ./data/sector --num_workers 0",
        "--save_folder ./data/augmented": "--save_folder ./data/augmented --n_repeat 1 --num_workers 0",
        f"--img_size 64 {NARROW}": TINY,
        "--lr_anneal_steps 900": TRAINING,
        "--num_samples 480": "--num_samples 16 --device cpu",
        "--output_dir ./evaluation": f"--output_dir ./evaluation {EVALUATION}",
        "--img-size 64 --batch-size 16 --epochs 15 --loss dice_ce": SEGMENTATION,
        "--output-dir ./output/test": f"--output-dir ./output/test {JUDGING}",
    },
    "docs/chain.md": PUBLISHED
    | {
        "for view in 2CH_ED 2CH_ES 4CH_ED 4CH_ES": "for view in 2CH_ED",
        "--num_samples 2250": "--num_samples 10 --num_steps 2 --device cpu",
        "--output_dir ../evaluation": f"--output_dir ../evaluation {EVALUATION}",
        "--output-dir ./output/segmentation": f"--output-dir ./output/segmentation {SEGMENTATION}",
        "--output-dir ./output/test": f"--output-dir ./output/test {JUDGING}",
        "./data/views128/": "./data/views/",
        "--img-size 128 --batch-size 8 --epochs 12": SEGMENTATION,
    },
    "docs/own_data.md": {
        "--n_repeat 2": "--n_repeat 1",
        "--lr_anneal_steps 100": TRAINING,
        "--all --num_steps 10": "--all --num_steps 2 --device cpu",
        "--output_dir own/evaluation": f"--output_dir own/evaluation {EVALUATION}",
        "--epochs 40": "--epochs 1",
    },
    "docs/evaluation.md": {"--output_dir ../evaluation": f"--output_dir ../evaluation {EVALUATION}"},
    "docs/clusters.md": {
        "mpiexec -np 8": "mpiexec -np 2",
        "torchrun --nproc_per_node 8": "torchrun --nproc_per_node 2",
        "--savedir ../output/2CH_ED": f"--savedir ../output/$LINENO {TINY} --num_head_channels 32",
        "--batch_size_train 12 --lr_anneal_steps 50000": f"--batch_size_train 1 {TRAINING}",
    },
}
# What a page finds of the README's run, beside its data.
GIVEN = {"docs/evaluation.md": ("results",)}
# Pieces by their beginnings, and why they do not run here. What they call of ours is read and checked all the same.
NOT_RUN = {
    "make ": "targets, which are looked up; test_demo.py and test_replicate.py run the long ones",
    "#!/bin/bash": "takes Slurm",
    "torchrun --nnodes": "takes two nodes",
    "docker ": "takes docker",
    "conda ": "takes conda and the network",
}
ONLY_READ = {
    "CONTRIBUTING.md": "targets of make",
    "docs/replication.md": "takes hours; test_replicate.py runs all three, small",
    "pipelines/demo_checkpoint/README.md": "made the weights that are shipped, in more than an hour",
}
# Flags of launchers, Slurm and docker that pages name.
OF_OTHERS = {"nproc-per-node", "dependency", "mpi", "requeue", "signal", "build-arg", "shm-size", "cpus"}
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(
        str(path.relative_to(ROOT))
        for folder in ("benchmarks", "docs", "pipelines")
        for path in (ROOT / folder).rglob("*.md")
    ),
]
PAGES = sorted(page for page in PAGES if "```bash" in (ROOT / page).read_text())


def pieces(page: str) -> list[str]:
    """The shell commands of a page, each on one line, without comments; scripts and what reads from a block whole."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
        if block.startswith("#!") or "<<" in block:
            found.append(block)
            continue
        lines = (re.sub(r"\s+#\s.*", "", line) for line in block.replace("\\\n", " ").splitlines())
        found += [" ".join(line.split()) for line in lines if line.strip()]
    return found


def calls(piece: str) -> list[str]:
    """The commands of this project that a piece calls, with their paths from the root."""
    found = []
    for line in piece.replace("\\\n", " ").replace(" …", "").splitlines():
        called = re.search(r"(?:\S*/)?(\w+)\.py\b(.*)", line)
        if called and called[1] in check_commands.SETTINGS and not line.startswith("#"):
            folder = next(folder for folder in FOLDERS if (ROOT / folder / f"{called[1]}.py").is_file())
            found.append(f"python {folder}/{called[1]}.py{called[2]}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_read_as_it_would_read_itself(page):
    assert page in SMALLER or page in ONLY_READ
    for piece in pieces(page):
        for line in calls(piece):
            check_commands.check(re.sub(r"\s#\s.*", "", line))
        for script, flags in re.findall(r"^python (benchmarks/\w+\.py)(.*)", piece):
            names = re.findall(r" --(\w+)", flags)
            source = (ROOT / script).read_text()
            assert names and all(re.search(rf"^    {name}: ", source, re.MULTILINE) for name in names), piece
    whole = subprocess.run(["bash", "-n"], input="\n".join(pieces(page)), capture_output=True, text=True)
    assert whole.returncode == 0 and not whole.stderr, whole.stderr


def test_what_make_is_asked_for_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = [piece.split()[1] for page in PAGES for piece in pieces(page) if piece.startswith("make ")]
    assert {"demo", "test", "replicate", "lint"} <= set(asked) <= targets


def test_what_does_not_run_is_still_there():
    everything = [piece for page in PAGES for piece in pieces(page)]
    assert all(any(piece.startswith(beginning) for piece in everything) for beginning in NOT_RUN)


@pytest.mark.parametrize("page", sorted({*PAGES, *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))}))
def test_flags_that_are_named_in_a_sentence_are_there(page):
    known = set(re.findall(r"--([a-z][\w-]*)", (ROOT / "docs" / "cli.md").read_text().replace("_", "-")))
    sentences = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    code = " ".join(re.findall(r"`([^`]+)`", sentences))
    named = {flag.replace("_", "-") for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", code)}
    assert named <= known | OF_OTHERS


def to_run(page: str) -> list[str]:
    """The pieces of a page that run here, without the commands that it begins with as the README does, which may give
    them more flags."""
    runs, done = ([p for p in pieces(one) if not p.startswith(tuple(NOT_RUN))] for one in (page, "README.md"))
    while page != "README.md" and done[0].startswith(runs[0]) and calls(runs[0]):
        runs, done = runs[1:], done[1:]
    return runs


def run(page: str, folder: Path) -> None:
    """Run the page in `folder`; each command says what usually follows, and none writes a carriage return."""
    script = "\n".join(to_run(page))
    expected = len(calls(script))
    for wanted, smaller in SMALLER[page].items():
        assert wanted in script, f"{page} has no {wanted}"
        script = script.replace(wanted, smaller)
    for code in FOLDERS:  # what lies beside them is written to
        shutil.copytree(ROOT / code, folder / code, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "echo_segmentations").symlink_to("echo_segmentation")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"{page} ended with {done.returncode}\n{out[-2000:]}{err[-2000:]}"
    assert "\r" not in out + err
    assert len(re.findall(r"^next: ", out, re.MULTILINE)) == expected


def unnamed(folder: Path) -> set[str]:
    """Files that commands wrote below `folder`, and docs/on_disk.md says nothing of."""
    page = (ROOT / "docs" / "on_disk.md").read_text().split("## What is read")[0]
    names = set()
    for path in folder.rglob("*.*"):
        if path.suffix == ".png" and not re.search(r"figures|preview", str(path)):
            names.add("<stem>.png")
        else:
            numbered = re.sub(r"^ema_[\d.]+_", "ema_<rate>_", re.sub(r"\d{6}(?=\.)", "NNNNNN", path.name))
            names.add(re.sub(r"(?<=tfevents\.).*", "*", numbered))
    return {name for name in names if name not in page}


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """The folder in which the README's commands ran."""
    folder = tmp_path_factory.mktemp("readme")
    run("README.md", folder)
    return folder


@pytest.mark.launch
@pytest.mark.timeout(900)
def test_the_readme_goes_through_as_it_stands(chain):
    assert (chain / "output/published/model000002.pt").is_file()
    assert len(list((chain / "results/samples").glob("*.png"))) == 16
    for made in ("results/preview.png", "evaluation/evaluation.md", "output/segmentation/model.pth"):
        assert (chain / made).is_file(), made
    assert (chain / "output/test/metrics.csv").read_text().count("\n") > 1
    assert not [name for made in ("data", "output", "results", "evaluation") for name in unnamed(chain / made)]


@pytest.mark.launch
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in SMALLER if page != "README.md"])
def test_the_pages_go_on_from_there(chain, page, tmp_path):
    for name in ("camus", "data/views", "data/sector", "data/augmented", *GIVEN.get(page, ())):
        shutil.copytree(chain / name, tmp_path / name)
    drawer = "tests/own_data/made_up_sets.py"
    (tmp_path / drawer).parent.mkdir(parents=True)
    shutil.copy(ROOT / drawer, tmp_path / drawer)
    run(page, tmp_path)
    if page == "docs/own_data.md":
        shown = re.search(r"```json\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)[1]
        assert json.loads(shown) == json.loads((tmp_path / "heads/dataset.json").read_text())
        assert not unnamed(tmp_path / "own")

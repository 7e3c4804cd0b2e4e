"""What a training saves that starts from the weights of another; the log goes to results/transfer.txt.

    python benchmarks/transfer.py --datadir FOLDER --savedir FOLDER --weights ema_0.999_003000.pt [--img_size 128]

Trains the demo's network on the images of datadir twice, with everything else equal: from scratch, and from `weights`
of the same network, trained at another size or on other views. Tells the squared error of x_0 on the validation images
on the way (val_x_start_mse, averaged weights), and after how many steps the second is where the first ends. Run again,
it goes on.
"""

import csv
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from prediction_types import BEST, network_at, spelled
from project_commands import run
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from command import UserError, run_command  # noqa: E402
from schema import check_settings  # noqa: E402

Positive = Annotated[int, Interval(ge=1)]
LOOKS = 6  # validations of each training


@dataclass
class BenchmarkSettings:
    datadir: Path
    """Folder with images/ and sector_annotations/, each with training/ and validation/."""
    savedir: Path
    """Folder for the trainings."""
    weights: Path
    """Of the demo's network, as image_train.py saves them."""
    img_size: Annotated[int, Interval(ge=16, le=1024)] = 64
    """Of the images trained on."""
    lr_anneal_steps: Positive = 600
    """Steps of each training."""
    lr: Annotated[float, Interval(gt=0)] = 1e-3
    """Learning rate of both."""
    log: Path = RESULTS / "transfer.txt"
    """Where the results are written."""


def train(settings: BenchmarkSettings, name: str, weights: Path | None) -> dict[int, float]:
    """The validation error by step of a training, as far as it is not done before."""
    steps = settings.lr_anneal_steps
    folder = settings.savedir / f"{name}_{settings.img_size}_{steps}_{settings.lr:g}"
    flags = network_at(settings.img_size) | BEST
    flags |= {"lr": settings.lr, "lr_anneal_steps": steps, "save_interval": -(-steps // LOOKS)}
    flags |= {"datadir": settings.datadir, "savedir": folder}
    if weights:
        flags["resume_checkpoint"] = weights
    run(ROOT / "semantic_diffusion_model/image_train.py", *spelled(flags))
    with open(folder / "progress.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]): float(row["val_x_start_mse"]) for row in rows if row["val_x_start_mse"]}


def step_that_reaches(errors: dict[int, float], target: float) -> int | None:
    """The first step whose error is `target` or less."""
    return next((step for step, error in sorted(errors.items()) if error <= target), None)


def measure(settings: BenchmarkSettings) -> None:
    check_settings(settings)
    if not settings.weights.is_file():
        raise UserError(f"weights {settings.weights} is no file")
    log = Log(
        settings.log,
        f"python benchmarks/transfer.py --datadir {settings.datadir.name} --savedir FOLDER --weights "
        f"{settings.weights.name} --img_size {settings.img_size} --lr_anneal_steps {settings.lr_anneal_steps} "
        f"--lr {settings.lr:g}",
        " ".join(spelled(network_at(settings.img_size) | BEST)),
    )
    settings.savedir.mkdir(parents=True, exist_ok=True)
    copied = settings.savedir / f"start_{settings.weights.name}"  # no state beside it: it is no run to go on with
    if not copied.exists():
        shutil.copy(settings.weights, copied)
    scratch, started = train(settings, "scratch", None), train(settings, "started", copied)
    log.say(f"{'step':>8}{'from scratch':>16}{'from weights':>16}    squared error of x_0, validation images")
    for step in scratch:
        log.say(f"{step:8}{scratch[step]:16.5f}{started[step]:16.5f}")
    last = max(scratch)
    reached = step_that_reaches(started, scratch[last])
    told = f"after {reached} or fewer" if reached else f"not within {last}"
    log.say(f"what takes {last} steps from scratch is reached from these weights {told}")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))

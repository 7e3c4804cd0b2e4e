"""How long weights should be averaged, chosen after the training; the log goes to results/average_lengths.txt.

    python benchmarks/average_lengths.py --datadir FOLDER --savedir FOLDER [--lr_anneal_steps 2700] [--log FILE]

Trains the demo's network once, with two power-function averages saved on the way, and makes averages of other widths
with image_average.py, at a third of the training and at its end. Tells the squared error of x_0 on the validation
images by timestep (as prediction_types.py does), beside those of the usual averages and of the weights themselves.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from prediction_types import BEST, TIMESTEPS, errors, network_at, spelled
from project_commands import output_of, run
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from command import run_command  # noqa: E402
from guided_diffusion.runs.checkpoints import ema_name, model_name  # noqa: E402
from schema import check_settings  # noqa: E402

KEPT = 0.05, 0.1  # widths of the averages that are saved
WIDTHS = 0.03, 0.05, 0.08, 0.1, 0.14, 0.2
DECAYS = 0.99, 0.995, 0.999
SAVES = 36  # of the training


@dataclass
class BenchmarkSettings:
    datadir: Path
    """Folder with images/ and sector_annotations/, each with training/ and validation/."""
    savedir: Path
    """Folder for the training."""
    img_size: Annotated[int, Interval(ge=16, le=1024)] = 64
    """Of the images trained on."""
    lr_anneal_steps: Annotated[int, Interval(ge=SAVES)] = 2700
    """Steps of the training."""
    log: Path = RESULTS / "average_lengths.txt"
    """Where the results are written."""


def training_flags(settings: BenchmarkSettings, between: int) -> dict:
    """Of a training with SAVES saves, `between` updates apart."""
    rates = ",".join([*map(str, DECAYS), *(f"w{width}" for width in KEPT)])
    kept = {"ema_rate": rates, "save_interval": between, "keep_checkpoints": 0, "lr_anneal_steps": between * SAVES}
    return network_at(settings.img_size) | BEST | kept


def averaged(settings: BenchmarkSettings, width: float, step: int) -> tuple[Path, str]:
    """The average of this width at update `step`, and what image_average.py says of it."""
    path = settings.savedir.parent / f"{settings.savedir.name}_averages" / f"{width}_{step}.pt"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    flags = "--savedir", settings.savedir, "--save_as", path, "--width", width, "--step", step
    told = output_of(ROOT / "semantic_diffusion_model/image_average.py", *flags)
    return path, told.partition(" but for ")[2].partition("\n")[0]


def measure(settings: BenchmarkSettings) -> None:
    check_settings(settings)
    between = settings.lr_anneal_steps // SAVES
    flags = training_flags(settings, between)
    log = Log(
        settings.log,
        f"python benchmarks/average_lengths.py --datadir {settings.datadir.name} --savedir FOLDER "
        f"--img_size {settings.img_size} --lr_anneal_steps {settings.lr_anneal_steps}",
        " ".join(spelled(flags)),
    )
    places = {"datadir": settings.datadir, "savedir": settings.savedir}
    run(ROOT / "semantic_diffusion_model/image_train.py", *spelled(flags | places))  # as far as it is not done

    def say(name: str, path: Path, note: str = "") -> None:
        found, _ = errors(path, str(settings.datadir))
        log.say(f"{name:14}" + "".join(f"{error:10.5f}" for error in found) + f"{note:>16}")

    for step in (between * (SAVES // 3), between * SAVES):
        heading = "".join(f"{f't {timestep}':>10}" for timestep in TIMESTEPS)
        log.say(f"\n{f'step {step}':14}{heading}{'short of (rms)':>16}")
        say("the weights", settings.savedir / model_name(step))
        for decay in DECAYS:
            say(f"decay {decay}", settings.savedir / ema_name(decay, step))
        for width in WIDTHS:
            say(f"width {width}", *averaged(settings, width, step))
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))

"""What a network should predict, and how its error be weighed; the log goes to results/prediction_types.txt.

    python benchmarks/prediction_types.py --datadir FOLDER --savedir FOLDER [--img_size 64] [--lr_anneal_steps 900]
        [--log FILE]

Trains the demo's network from scratch, once for each variant, with everything else equal (some 20 minutes each on one
core), and tells the mean squared error of x_0 (clipped to [-1, 1]) by timestep, on the validation frames, with the
averaged weights. Run again, it goes on: each variant trains in its own folder of savedir. `--only v_5_0.1` takes one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from project_commands import run
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from command import UserError, run_command  # noqa: E402
from config import Settings  # noqa: E402
from guided_diffusion.data.datasets import find_pairs  # noqa: E402
from guided_diffusion.data.loading import Examples  # noqa: E402
from guided_diffusion.network.from_settings import build_diffusion, build_network  # noqa: E402
from guided_diffusion.process.random_streams import normal, stream  # noqa: E402
from guided_diffusion.runs.checkpoints import ema_name, read_checkpoint  # noqa: E402
from guided_diffusion.runs.network_settings import merge_settings  # noqa: E402

COARSEST = 4  # times the width of a pixel: of the network's three levels, the one that attends
TIMESTEPS = (20, 100, 250, 400, 600, 800, 950)
BATCH = 20
EMA_RATE = 0.995
# The demo's network and training.
COMMON = {
    "is_train": True,
    "num_channels": 32,
    "channel_mult": "1,1,2",
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "use_checkpoint": False,
    "batch_size_train": 8,
    "lr": 1e-3,
    "max_grad_norm": 1,
    "ema_rate": EMA_RATE,
    "save_interval": 150,
    "log_interval": 50,
    "keep_checkpoints": 1,
    "num_workers": 0,
    "preview_steps": 0,
}
V = {"prediction_type": "v_prediction"}
MIN_SNR = V | {"loss_weighting": "min_snr"}
BEST = MIN_SNR | {"snr_gamma": 5, "snr_floor": 0.1}
PATCHES = BEST | {"patch_size": 2, "channel_mult": "2,2"}
# What differs from COMMON, and how many times the steps it may take in the same time.
VARIANTS = {
    "sample": ({"prediction_type": "sample"}, 1),
    "v": (V, 1),
    "v_5_0": (MIN_SNR | {"snr_gamma": 5}, 1),
    "v_5_0.1": (BEST, 1),
    "v_20_0.1": (MIN_SNR | {"snr_gamma": 20, "snr_floor": 0.1}, 1),
    "patches": (PATCHES, 1.2),  # a step at 0.85 of the time at 128 pixels, 0.96 at 64
    "cosine": (BEST | {"lr_schedule": "cosine", "lr_warmup_steps": 50}, 1),
    "logit_normal": (BEST | {"schedule_sampler": "logit-normal"}, 1),
    "log_snr": (BEST | {"schedule_sampler": "log-snr"}, 1),
    "flips": (BEST | {"random_flip": True}, 1),
    "batch_16": (BEST | {"batch_size_train": 16}, 0.5),
    "one_channel": (BEST | {"image_channels": 1}, 1),
}


def network_at(size: int) -> dict:
    """The flags of the demo's network for images of this size."""
    return COMMON | {"img_size": size, "attention_resolutions": size // COARSEST}


def spelled(flags: dict) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@dataclass
class BenchmarkSettings:
    datadir: str
    """Folder with images/ and sector_annotations/, each with training/ and validation/."""
    savedir: Path
    """Folder for the trainings."""
    img_size: int = 64
    """Of the images trained on."""
    lr_anneal_steps: int = 900
    """Steps of each training."""
    only: str = ""
    """Names of the variants to train, a comma list; empty: all."""
    log: Path = RESULTS / "prediction_types.txt"
    """Where the results are written."""


def told(name: str) -> str:
    changes, times = VARIANTS[name]
    return " ".join(spelled(changes)) + (f", {times:g} times the steps" if times != 1 else "")


def train(name: str, settings: BenchmarkSettings) -> Path:
    """The averaged weights of the variant `name`, trained as far as it is not."""
    changes, times = VARIANTS[name]
    steps = round(settings.lr_anneal_steps * times)
    # A folder of its own: a training that has ended would go on from there.
    folder = settings.savedir / f"{name}_{settings.img_size}_{steps}"
    flags = network_at(settings.img_size) | changes
    flags |= {"lr_anneal_steps": steps, "datadir": settings.datadir, "savedir": folder}
    run(ROOT / "semantic_diffusion_model/image_train.py", *spelled(flags))
    return folder / ema_name(EMA_RATE, steps)


@torch.no_grad()
def errors(checkpoint_path: Path, datadir: str) -> tuple[list[float], int]:
    """Mean squared error of x_0 at each of TIMESTEPS, and the number of frames; noise depends on the frame alone."""
    checkpoint = read_checkpoint(str(checkpoint_path))
    settings = merge_settings(Settings(datadir=datadir, num_workers=0), set(), checkpoint)
    examples = Examples(find_pairs(settings, ["validation"]), settings)
    network = build_network(settings)
    network.load_state_dict(checkpoint.state_dict)
    network.eval()
    diffusion = build_diffusion(settings)
    sums = np.zeros(len(TIMESTEPS))
    for start in range(0, len(examples), BATCH):
        places = range(start, min(start + BATCH, len(examples)))
        microbatch = examples.microbatch(list(places))
        x_start = microbatch.x_start()
        noise = normal([stream("cpu", 0, "prediction types", place) for place in places], x_start.shape[1:])
        for place, timestep in enumerate(TIMESTEPS):
            t = torch.full((len(x_start),), timestep)
            x_t = diffusion.q_sample(x_start, t, noise)
            output = network(x_t, diffusion.model_timesteps(t), microbatch.condition)
            predicted = diffusion.interpret(output, x_t, t, clip=True).x_start
            sums[place] += float((predicted - x_start).square().mean((1, 2, 3)).sum())
    return (sums / len(examples)).tolist(), len(examples)


def measure(settings: BenchmarkSettings) -> None:
    names = settings.only.split(",") if settings.only else list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"only: there is no {unknown[0]}; the variants are {', '.join(VARIANTS)}")
    log = Log(
        settings.log,
        f"python benchmarks/prediction_types.py --datadir SECTOR_FRAMES --savedir FOLDER --only {','.join(names)} "
        f"--img_size {settings.img_size} --lr_anneal_steps {settings.lr_anneal_steps}",
        f"{torch.get_num_threads()} threads of torch",
        " ".join(spelled(network_at(settings.img_size))),
    )
    log.say(f"{'variant':12}" + "".join(f"{f't {t}':>10}" for t in TIMESTEPS))
    for name in names:
        found, frames = errors(train(name, settings), settings.datadir)
        log.say(f"{name:12}" + "".join(f"{error:10.5f}" for error in found) + f"   {frames} frames, {told(name)}")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))

"""Seconds per synthetic image on a CPU, at the size of the demo; the log goes to benchmarks/results/sampling.txt.

    python benchmarks/sampling.py [--batch 8] [--rounds 5] [--log FILE]

Every sampler evaluates the network once a step, so one step stands for all: the time of a step is the median over
rounds in which the samplers take turns, and an image costs steps x time of a step + a fixed part. One schedule is
measured whole as well, to show that the sum is right.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
import numpy as np  # noqa: E402
import torch  # noqa: E402

from command import run_command  # noqa: E402
from config import Settings  # noqa: E402
from guided_diffusion.data import pictures  # noqa: E402
from guided_diffusion.network.condition import Condition  # noqa: E402
from guided_diffusion.network.from_settings import build_diffusion, build_network  # noqa: E402
from guided_diffusion.process.random_streams import normal, stream  # noqa: E402
from guided_diffusion.process.timesteps import space_timesteps  # noqa: E402
from guided_diffusion.sampling.denoiser import Denoiser  # noqa: E402
from guided_diffusion.sampling.results import FOLDERS, Results  # noqa: E402
from guided_diffusion.sampling.samplers import sample  # noqa: E402

DEMO = {"img_size": 64, "num_channels": 32, "channel_mult": "1,1,2", "num_res_blocks": 1}
DEMO |= {"attention_resolutions": "16", "num_head_channels": 32}
SCHEDULES = (("ddpm", 1000), ("ddpm", 250), ("ddim", 50), ("unipc", 20), ("unipc", 10), ("unipc", 8))
STEPS_PER_ROUND = 4
WHOLE = ("unipc", 20)


@dataclass
class BenchmarkSettings:
    batch: int = 8
    """Images per batch."""
    rounds: int = 5
    """Measurements of each sampler, of which the median counts."""
    log: Path = RESULTS / "sampling.txt"
    """Where the results are written."""


def labels_of_hearts(count: int, size: int) -> np.ndarray:
    """Label maps [count, size, size]: a cone with a cavity in its wall and an atrium below, each a little different."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    maps = []
    for i in range(count):
        labels = np.where(abs(x) < 0.75 * (y + 0.5), 2, 0)
        for value, centre, height, width in ((3, -0.1, 0.3, 0.16), (1, -0.1, 0.24, 0.1), (4, 0.28, 0.1, 0.1)):
            inside = ((y - centre) / height) ** 2 + ((x - 0.01 * i) / (width + 0.005 * i)) ** 2 < 1
            labels = np.where(inside, value, labels)
        maps.append(labels)
    return np.stack(maps).astype(np.uint8)


class Batch:
    """One batch of the demo's network, with random weights: time does not depend on their values."""

    def __init__(self, size: int):
        settings = Settings(**DEMO)
        self.network = build_network(settings).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        for parameter in self.network.parameters():
            parameter.normal_(std=0.02)
        self.diffusion = build_diffusion(settings)
        self.labels = labels_of_hearts(size, settings.img_size)
        self.settings = settings

    def sample(self, name: str, timesteps: list[int]) -> torch.Tensor:
        generators = [stream("cpu", 0, "benchmark", i) for i in range(len(self.labels))]
        classes, factors = self.settings.num_classes, self.network.factors
        condition = Condition.from_labels(self.labels, classes, factors=factors, training=False)
        noise = normal(generators, (3, *self.labels.shape[1:]))
        return sample(name, Denoiser(self.network, self.diffusion, condition), noise, timesteps, generators)

    def write(self, x: torch.Tensor, folder: str) -> None:
        results = Results(folder, 0)
        results.create_folders()
        for i, (picture, label) in enumerate(zip(pictures.to_uint8(x.numpy()), self.labels, strict=True)):
            for kind in FOLDERS:
                results.write_png(kind, str(i), pictures.overlay(pictures.to_grey(picture), label))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure(settings: BenchmarkSettings) -> None:
    log = Log(
        settings.log,
        f"{torch.get_num_threads()} threads of torch",
        "network of the demo, 64 x 64 pixels: " + " ".join(f"--{name} {value}" for name, value in DEMO.items()),
        f"batch {settings.batch}; an image costs steps x time of a step + a fixed part (tables, noise, PNG files)",
        f"medians of {settings.rounds}",
    )
    batch = Batch(settings.batch)
    samplers = sorted({name for name, _ in SCHEDULES})
    few, many = space_timesteps(1000, "1"), space_timesteps(1000, str(1 + STEPS_PER_ROUND))
    batch.sample(samplers[0], many)  # warm up
    fixed, steps, whole = [], {name: [] for name in samplers}, []
    with tempfile.TemporaryDirectory() as folder:
        x = batch.sample(samplers[0], few)
        for _ in range(settings.rounds):
            writing = seconds(batch.write, x, folder)
            for name in samplers:  # in turns, so that other work on the machine disturbs all alike
                one, more = seconds(batch.sample, name, few), seconds(batch.sample, name, many)
                steps[name].append((more - one) / STEPS_PER_ROUND)
                fixed.append(one - steps[name][-1] + writing)
            if len(whole) < 3:
                everything = seconds(batch.sample, WHOLE[0], space_timesteps(1000, str(WHOLE[1])))
                whole.append(everything + writing)
    step = {name: statistics.median(values) for name, values in steps.items()}
    once = max(0.0, statistics.median(fixed))
    each = ", ".join(f"{name} {1000 * value / settings.batch:.1f} ms" for name, value in step.items())
    log.say(f"fixed part {1000 * once / settings.batch:.1f} ms an image; a step of {each}")
    log.say()
    for name, count in SCHEDULES:
        total = (count * step[name] + once) / settings.batch
        log.say(f"{total:8.2f} s an image, {1 / total:7.3f} images/s  {name} {count} (from the time of a step)")
    total = statistics.median(whole) / settings.batch
    log.say(f"{total:8.2f} s an image, {1 / total:7.3f} images/s  {WHOLE[0]} {WHOLE[1]} (measured whole)")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))

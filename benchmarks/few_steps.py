"""What few sampling steps cost: every sampler and spacing against many steps; the log goes to results/few_steps.txt.

    python benchmarks/few_steps.py --datadir FOLDER [--resume_checkpoint FILE] [--images 8] [--many 250] [--log FILE]

FOLDER holds sector label maps, as augment_camus_labels.py writes them. All images start from the same noise.
Deterministic samplers follow one flow, so their images are compared with those of many steps: root mean square and mean
absolute difference in grey levels (0 to 255) inside the cone. Samplers that draw fresh noise give other images each: of
those, the statistics inside the cone are compared with those of as many steps of DDPM.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from command import UserError, run_command  # noqa: E402
from config import Settings  # noqa: E402
from guided_diffusion.data.arrays import load_label  # noqa: E402
from guided_diffusion.data.datasets import find_pairs  # noqa: E402
from guided_diffusion.network.condition import Condition  # noqa: E402
from guided_diffusion.network.from_settings import build_diffusion, build_network  # noqa: E402
from guided_diffusion.process.random_streams import normal, stream  # noqa: E402
from guided_diffusion.process.timesteps import FIRST_SIGNAL, LAST_NOISE, few_timesteps  # noqa: E402
from guided_diffusion.runs.checkpoints import read_checkpoint  # noqa: E402
from guided_diffusion.runs.network_settings import merge_settings  # noqa: E402
from guided_diffusion.sampling.denoiser import Denoiser  # noqa: E402
from guided_diffusion.sampling.samplers import sample  # noqa: E402

SPACINGS = ("even", "logsnr", "karras")
FLOWS = ("ddim", "dpmpp_2m", "unipc")
FRESH = ("ddpm", "dpmpp_2m_sde")
SIGNALS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.2)
NOISES = (0.001, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # the first: down to the first timestep


@dataclass
class BenchmarkSettings:
    datadir: str
    """Folder with sector_annotations/training."""
    resume_checkpoint: str = str(ROOT / "pipelines" / "demo_checkpoint" / "ema.pt")
    """The network."""
    images: int = 8
    """Label maps, evenly taken from the folder."""
    steps: tuple[int, ...] = (5, 8, 10, 20)
    """Numbers of steps that are compared."""
    many: int = 250
    """Steps of the references."""
    log: Path = RESULTS / "few_steps.txt"
    """Where the results are written."""


class Batch:
    """Some label maps, their noise, and the network."""

    def __init__(self, settings: BenchmarkSettings):
        checkpoint = read_checkpoint(settings.resume_checkpoint)
        self.settings = merge_settings(Settings(datadir=settings.datadir), set(), checkpoint)
        pairs = find_pairs(self.settings, ["training"], with_images=False)
        if len(pairs) < settings.images:
            raise UserError(
                f"{settings.datadir} has {len(pairs)} label maps, fewer than the {settings.images} asked for"
            )
        pairs = [pairs[i * len(pairs) // settings.images] for i in range(settings.images)]
        self.labels = np.stack([load_label(pair, self.settings) for pair in pairs])
        self.cone = self.labels != 0
        network = build_network(self.settings)
        network.load_state_dict(checkpoint.state_dict)
        self.network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.diffusion = build_diffusion(self.settings, timestep_respacing="")
        self.alphas_cumprod = self.diffusion.alphas_cumprod

    def grey(self, sampler: str, timesteps: list[int]) -> np.ndarray:
        """Images [N, H, W] in grey levels, not rounded."""
        streams = [stream("cpu", 0, "few steps", i) for i in range(len(self.labels))]
        noise = normal(streams, (self.settings.image_channels, *self.labels.shape[1:]))
        network, classes = self.network, self.settings.num_classes
        condition = Condition.from_labels(
            self.labels, classes, factors=network.factors, training=False, patch_size=network.patch_size
        )
        x = sample(sampler, Denoiser(self.network, self.diffusion, condition), noise, timesteps, streams)
        return (127.5 * (x.mean(1) + 1)).numpy()

    def error(self, images: np.ndarray, reference: np.ndarray) -> str:
        """Root mean square and, in brackets, mean absolute difference inside the cone."""
        difference = (images - reference)[self.cone]
        return f"{np.sqrt(np.mean(difference**2)):8.2f} ({np.abs(difference).mean():5.2f})"

    def statistics(self, images: np.ndarray) -> np.ndarray:
        """Mean, standard deviation, and rms difference of neighbours across (both inside the cone), in grey levels."""
        both = self.cone[:, :, 1:] & self.cone[:, :, :-1]
        across = np.diff(images, axis=2)[both]
        inside = images[self.cone]
        return np.array([inside.mean(), inside.std(), np.sqrt(np.mean(across**2))])


def measure(settings: BenchmarkSettings) -> None:
    batch = Batch(settings)
    command = (
        f"python benchmarks/few_steps.py --datadir {Path(settings.datadir).name} --images {settings.images} "
        f"--many {settings.many}"
    )
    log = Log(settings.log, command, f"checkpoint {Path(settings.resume_checkpoint).name}, {batch.labels.shape} labels")
    start = time.perf_counter()
    bars = batch.alphas_cumprod
    reference = batch.grey("unipc", few_timesteps(bars, settings.many, "logsnr"))
    log.say(f"reference: unipc, {settings.many} steps by log-SNR, {time.perf_counter() - start:.0f} s")
    other = batch.grey("dpmpp_2m", few_timesteps(bars, settings.many, "logsnr"))
    log.say(f"dpmpp_2m in as many steps, from it: {batch.error(other, reference).strip()} grey levels")
    compare_flows(batch, reference, settings.steps, log)
    compare_ends(batch, reference, settings.steps, log)
    compare_fresh(batch, settings.many, settings.steps, log)
    log.write()


def compare_flows(batch: Batch, reference: np.ndarray, steps: Sequence[int], log: Log) -> None:
    log.say("\nDifference from the reference in grey levels: rms (mean absolute)")
    log.say(f"{'sampler':14}{'spacing':10}" + "".join(f"{n:>16}" for n in steps))
    for sampler in FLOWS:
        for spacing in SPACINGS:
            errors = [
                batch.error(batch.grey(sampler, few_timesteps(batch.alphas_cumprod, n, spacing)), reference)
                for n in steps
            ]
            log.say(f"{sampler:14}{spacing:10}" + "".join(errors))


def compare_ends(batch: Batch, reference: np.ndarray, steps: Sequence[int], log: Log) -> None:
    log.say(
        "\nUniPC by log-SNR with other ends, times the number of steps: alpha / sigma of the second timestep visited,"
    )
    log.say("and sigma / alpha of the last one")
    log.say(f"{'signal':>8}{'noise':>8}" + "".join(f"{n:>16}" for n in steps))
    for signal, noise in [(signal, LAST_NOISE) for signal in SIGNALS] + [(FIRST_SIGNAL, noise) for noise in NOISES]:
        visited = [few_timesteps(batch.alphas_cumprod, n, "logsnr", signal, noise) for n in steps]
        errors = [batch.error(batch.grey("unipc", timesteps), reference) for timesteps in visited]
        log.say(f"{signal:8.2f}{noise:8.3f}" + "".join(errors))


def compare_fresh(batch: Batch, many: int, steps: Sequence[int], log: Log) -> None:
    target = batch.statistics(batch.grey("ddpm", few_timesteps(batch.alphas_cumprod, many, "even")))
    log.say("\nStatistics inside the cone in grey levels: mean, standard deviation, rms difference of neighbours")
    log.say(f"{'ddpm':14}{'even':10}{many:>5} steps  " + "".join(f"{value:8.2f}" for value in target))
    log.say("and what other samplers and steps have above that")
    for sampler, spacings in (*((name, SPACINGS) for name in FRESH), ("unipc", ("logsnr",))):
        for spacing in spacings:
            for n in steps:
                images = batch.grey(sampler, few_timesteps(batch.alphas_cumprod, n, spacing))
                more = batch.statistics(images) - target
                log.say(f"{sampler:14}{spacing:10}{n:>5} steps  " + "".join(f"{value:+8.2f}" for value in more))


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))

"""What a segmentation costs by encoder, and whether the loader keeps up; the log: benchmarks/results/segmentation.txt.

    python benchmarks/segmentation.py [--threads 2] [--rounds 3]

Needs no data: time does not depend on the values of the pixels. Dice by encoder, on real CAMUS frames, comes from the
commands in results/segmentation_encoders.txt.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from timing import RESULTS, ROOT, Log, describe, interleaved, ratio_of

sys.path.insert(0, str(ROOT / "echo_segmentation"))
from cases import Case  # noqa: E402
from convolution import Conv2d  # noqa: E402
from dataset import CaseSet  # noqa: E402
from inference import normalise  # noqa: E402
from loader import make_loader  # noqa: E402
from losses import make_loss  # noqa: E402
from model import Architecture, build_network  # noqa: E402

BATCH, CLASSES = 16, 4
WIDE, THIN = (256, 128, 64, 32, 16), (64, 48, 32, 16, 8)
CANDIDATES = (
    ("resnet18", WIDE),
    ("resnet18", THIN),
    ("resnet34", THIN),
    ("tu-regnetx_004", THIN),
    ("tu-mobilenetv3_large_100", THIN),
    ("tu-efficientnet_b0", THIN),
)


def random_cases(count: int, size: int) -> CaseSet:
    """Noise for images and labels, held in memory as the runner holds CAMUS."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, (count, size, size), dtype=np.uint8)
    cases = [Case(str(i), Path(), Path()) for i in range(count)]
    return CaseSet(cases, size, np.bincount(images.ravel(), minlength=256), (images, labels))


def training_step(architecture: Architecture, size: int, fused: bool = True):
    """Normalisation, forward, loss, backward and Adam, as the runner does them."""
    torch.manual_seed(0)
    network = build_network(architecture).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fused)
    loss = make_loss("dice_ce")
    images, labels = (torch.from_numpy(array) for array in random_cases(BATCH, size).arrays)

    def run() -> None:
        value = loss(network(normalise(images, 0.2, 0.2, torch.device("cpu"))), labels.long())
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return run, sum(parameter.numel() for parameter in network.parameters())


def measure_encoders(log: Log, rounds: int) -> None:
    log.say(f"a training step at 128 x 128, batch {BATCH}, by encoder and channels of the decoder")
    jobs, sizes = {}, {}
    for encoder, decoder in CANDIDATES:
        name = f"{encoder:26s} {','.join(map(str, decoder)):18s}"
        jobs[name], sizes[name] = training_step(Architecture("unet", CLASSES, encoder, decoder), 128)
    for name, seconds in interleaved(jobs, rounds).items():
        log.say(f"  {name} {sizes[name] / 1e6:5.1f} M parameters   {describe(seconds)}")
    log.say()


def measure_shortcuts(log: Log, rounds: int) -> None:
    """The same step without and with what was made faster: Adam in one kernel; gradients as in convolution.py."""
    log.say(f"a training step of the default U-Net, batch {BATCH}")
    for size in (64, 128):
        plain, fused = (
            training_step(Architecture("unet", CLASSES, *default_unet()), size, f)[0] for f in (False, True)
        )

        def by_library(step) -> None:
            with mock.patch.object(Conv2d, "_suits", return_value=False):
                step()

        jobs = {
            "PyTorch's defaults": lambda step=plain: by_library(step),
            "fused Adam": lambda step=fused: by_library(step),
            "wide gradients as products too": fused,
        }
        seconds = interleaved(jobs, rounds)
        first = seconds["PyTorch's defaults"]
        for name, taken in seconds.items():
            log.say(
                f"  {size:3d} x {size:<3d} {name:30s} {describe(taken)}   {ratio_of(first, taken):.2f} times as fast"
            )
    log.say()


def measure_loader(log: Log, rounds: int) -> None:
    """One process decodes nothing (the set is in memory) and augments; more processes add to that."""
    size = 256
    log.say(f"images per second at {size} x {size}, batch {BATCH}")
    loader = make_loader(random_cases(8 * BATCH, size), BATCH, torch.device("cpu"), 0, False, augmented=True)
    rates = []
    for number in range(rounds + 1):
        loader.batch_sampler.epoch = number
        start = time.perf_counter()
        images = sum(len(batch) for batch, _ in loader)
        if number:
            rates.append(images / (time.perf_counter() - start))
    log.say(f"  loader, augmentation in one process   {np.median(rates):7.1f}")
    networks = {
        "default U-Net": Architecture("unet", CLASSES, *default_unet()),
        "published U-Net": Architecture("camus-unet", CLASSES),
    }
    jobs = {name: training_step(architecture, size)[0] for name, architecture in networks.items()}
    for name, seconds in interleaved(jobs, rounds).items():
        log.say(f"  training step, {name:22s} {BATCH / float(np.median(seconds)):7.1f}")
    log.say()


def default_unet() -> tuple[str, tuple[int, ...]]:
    from settings import TrainSettings

    return TrainSettings.encoder_name, TrainSettings.decoder_channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, of which the median counts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = Log(RESULTS / "segmentation.txt", f"{options.threads} threads of torch")
    measure_encoders(log, options.rounds)
    measure_shortcuts(log, options.rounds)
    measure_loader(log, options.rounds)
    log.write()


if __name__ == "__main__":
    main()

"""The published network of 652 M parameters on one GPU; the log goes to benchmarks/results/gpu.txt.

    python benchmarks/gpu.py [--dry-run]

Needs torch and numpy alone. --dry-run runs the same lines with a tiny network on any device, without a log. Times are
the median of several rounds. Shares of the peak count the arithmetic that is needed: 6.7 TFLOP per image of training
(no SPADE convolutions, no recomputation), 2.24 TFLOP per image and step of sampling.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from diffusion_setup import echo_label_maps, make_condition, make_network
from timing import RESULTS, Log

from guided_diffusion.graphs import Graphed
from guided_diffusion.optimisation import round_weights

TRAINING_TFLOP, SAMPLING_TFLOP = 6.7, 2.24
SECONDS_IN_ALL = 450  # what is left of the parts is skipped, and said, after this


class Bench:
    """One network, the settings it is measured with, and the lines of the table that comes last."""

    def __init__(self, dry_run: bool):
        self.start = time.perf_counter()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu" and not dry_run:
            raise SystemExit("there is no GPU: --dry-run tries the script with a tiny network")
        self.dry_run = dry_run
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "no GPU"
        self.log = Log(RESULTS / "gpu.txt", f"{name}, CUDA {torch.version.cuda}")
        self.channels, self.size, self.rounds = (32, 16, 1) if dry_run else (256, 256, 5)
        torch.backends.cudnn.benchmark = True
        self.table: list[str] = []
        self.peak = 0.0

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, job: Callable[[], object], warm_up: int = 2, inner: int = 1) -> float:
        """Median over rounds of the seconds of one call."""
        warm_up = 0 if self.dry_run else warm_up
        taken = []
        for number in range(warm_up + self.rounds):
            self.sync()
            start = time.perf_counter()
            for _ in range(inner):
                job()
            self.sync()
            if number >= warm_up:
                taken.append((time.perf_counter() - start) / inner)
        return statistics.median(taken)

    def share(self, tflop: float, seconds: float) -> str:
        """Share of the peak, in words; the tiny network of a dry run has another arithmetic."""
        return "" if self.dry_run else f"{100 * tflop / seconds / self.peak:5.1f} % of peak"

    def gigabytes(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0

    def free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def late(self, what: str) -> bool:
        if time.perf_counter() - self.start < SECONDS_IN_ALL:
            return False
        self.log.say(f"{what}: left out, the time is up")
        return True

    def report(self, text: str) -> None:
        self.table.append(text)
        self.log.say(text)

    def network(self) -> torch.nn.Module:
        with torch.device(self.device):
            network = make_network(self.channels, self.size, head=32 if self.dry_run else 64)
        return network.to(memory_format=torch.channels_last)

    def autocast(self, cache: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=cache)

    def batch(self, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(count, 3, size, size, device=self.device)
        return noise, torch.arange(count, device=self.device)


def measure_peaks(bench: Bench) -> None:
    """The device's own bf16 matrix peak and copy bandwidth."""
    width = 256 if bench.dry_run else 8192
    a, b = (torch.randn(width, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    bench.peak = 2e-12 * width**3 / bench.seconds(lambda: a @ b, warm_up=3, inner=20)
    source = torch.empty(2**20 if bench.dry_run else 2**30, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bandwidth = 2e-9 * len(source) / bench.seconds(lambda: target.copy_(source), inner=20)
    bench.report(f"peaks: {bench.peak:.0f} TFLOP/s in bf16 products, {bandwidth:.0f} GB/s copied (read and written)")


def eager():
    """Within this block nothing runs compiled: the naive path."""
    return torch.compiler.set_stance("force_eager")


def training_step(bench: Bench, network, optimiser, average, count: int, mode: str) -> Callable[[], None]:
    """Forward, backward, AdamW and the average of the weights; conditions come from the loader's workers."""
    weights = list(network.parameters())
    labels = [echo_label_maps(count, bench.size, seed) for seed in range(2)]
    conditions = itertools.cycle([make_condition(network, each, mode, True).to(bench.device) for each in labels])
    x, t = bench.batch(count, bench.size)

    def run():
        with bench.autocast():
            output = network(x, t, next(conditions))
        (output.float() ** 2).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
        torch._foreach_lerp_(average, weights, 1e-4)

    return run


def measure_training(bench: Bench) -> None:
    network = bench.network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=bench.device.type == "cuda")
    average = [parameter.detach().clone() for parameter in network.parameters()]
    small, best = (2, 3) if bench.dry_run else (12, 24)
    variants = [
        (1, "dense", True),  # the naive path: the yardstick
        (small, "auto", False),
        (small, "auto", True),
        (small, "dense", True),
        (small, "dense", False),
        (best, "auto", False),
        (2 * best, "auto", True),
    ]
    for count, mode, checkpointing in variants:
        name = f"training batch {count:2d} {'table' if mode == 'auto' else mode:5s}"
        name += " recomputing" if checkpointing else "            "
        if bench.late(name):
            continue
        network.recompute(checkpointing)
        bench.free()
        try:
            began = time.perf_counter()
            job = training_step(bench, network, optimiser, average, count, mode)
            with eager() if count == 1 else nullcontext():
                job()
                bench.sync()
                first = time.perf_counter() - began
                each = bench.seconds(job) / count
        except torch.cuda.OutOfMemoryError:
            network.zero_grad()
            bench.report(f"{name}  does not fit")
            continue
        share = bench.share(TRAINING_TFLOP, each)
        bench.report(f"{name} {1e3 * each:8.1f} ms per image {share} {bench.gigabytes():6.1f} GB")
        bench.log.say(f"    first step, with compilation: {first:.1f} s")


def sampling_step(bench: Bench, network, count: int, size: int, mode: str, graph: bool) -> Callable[[], object]:
    condition = make_condition(network, echo_label_maps(count, size), mode, False).to(bench.device).remember_tables()
    x, t = bench.batch(count, size)

    @torch.no_grad()
    def evaluate(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with bench.autocast(cache=False):
            return network(x, t, condition)

    step = Graphed(evaluate) if graph else evaluate
    return lambda: step(x, t)


def measure_sampling(bench: Bench) -> None:
    network = bench.network().eval().requires_grad_(False)
    size = bench.size
    counts = (1, 2) if bench.dry_run else (1, 4, 12, 32, 64)
    variants = [(1, size, "dense", False)]  # the naive path, with float32 weights
    variants += [(count, size, "auto", True) for count in counts]
    variants += [(counts[1], size, "auto", False), (counts[1], size, "dense", True)]
    variants += [(counts[1], size // 2, "auto", True), (counts[1], 2 * size, "auto", True)]
    for number, (count, pixels, mode, graph) in enumerate(variants):
        name = f"sampling {pixels:3d} px batch {count:2d} {'table' if mode == 'auto' else mode:5s}"
        name += " graph" if graph else (" eager" if number else " eager, float32 weights")
        if bench.late(name):
            continue
        bench.free()
        try:
            with eager() if number == 0 else nullcontext():
                each = bench.seconds(sampling_step(bench, network, count, pixels, mode, graph)) / count
        except torch.cuda.OutOfMemoryError:
            bench.report(f"{name}  does not fit")
            continue
        finally:
            if number == 0:
                round_weights(network, "bf16")
        share = bench.share(SAMPLING_TFLOP * (pixels / size) ** 2, each)
        bench.report(f"{name} {1e3 * each:8.2f} ms per image and step {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="a tiny network, on any device, without a log")
    bench = Bench(parser.parse_args().dry_run)
    for part in (measure_peaks, measure_training, measure_sampling):
        part(bench)
        bench.free()
    bench.log.say(f"\n{time.perf_counter() - bench.start:.0f} s in all\n")
    for line in bench.table:
        bench.log.say(line)
    if not bench.dry_run:
        bench.log.write()


if __name__ == "__main__":
    main()

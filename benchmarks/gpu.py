"""The published network of 652 M parameters on one GPU; the log goes to benchmarks/results/gpu.txt.

    python benchmarks/gpu.py [--dry-run]

Needs torch and numpy alone. --dry-run runs the same lines with a tiny network on any device, without a log. Times are
the median of several rounds. Shares of the peak count the arithmetic that is needed: 6.7 TFLOP per image of training
(no SPADE convolutions, no recomputation), 2.24 TFLOP per image and step of sampling. Shares of the copy bandwidth count
what the modulation must read and write.
"""

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest import mock

import torch
from diffusion_setup import echo_label_maps, make_condition, make_network
from timing import RESULTS, Log

from guided_diffusion.network import modulation, modulation_plain
from guided_diffusion.network.precision import round_weights
from guided_diffusion.sampling.graphs import Graphed
from out_of_memory import is_out_of_memory

TRAINING_TFLOP, SAMPLING_TFLOP = 6.7, 2.24
MODES = {"auto": "table", "table": "table at all sizes", "dense": "dense"}
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
        self.peak = self.bandwidth = 0.0

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
    bench.bandwidth = 2e-9 * len(source) / bench.seconds(lambda: target.copy_(source), inner=20)
    bench.report(
        f"peaks: {bench.peak:.0f} TFLOP/s in bf16 products, {bench.bandwidth:.0f} GB/s copied (read and written)"
    )


def measure_convolution(bench: Bench) -> None:
    """The largest convolution of the network: what a bias costs, which PyTorch adds in a pass of its own."""
    count, channels, size = (1, 32, 16) if bench.dry_run else (12, 256, 256)
    x = torch.randn(count, size, size, channels, device=bench.device, dtype=torch.bfloat16).permute(0, 3, 1, 2)
    weight = torch.randn(channels, 3, 3, channels, device=bench.device, dtype=torch.bfloat16).permute(0, 3, 1, 2)
    tflop = 18e-12 * count * size**2 * channels**2
    for name, bias in (("without bias", None), ("with bias", weight[:, 0, 0, 0].contiguous())):
        seconds = bench.seconds(functools.partial(torch.conv2d, x, weight, bias, padding=1), inner=3)
        bench.report(f"convolution {name:12s} {1e3 * seconds:8.3f} ms {bench.share(tflop, seconds)}")


def plainly():
    """Within this block the modulation runs without its kernels: part of the naive path."""
    return mock.patch.object(modulation, "_implementation", lambda _: modulation_plain)


def modulation_jobs(bench: Bench, count: int, channels: int, size: int, with_table: bool):
    """Forward, and a function that prepares the backward pass, of the modulation alone, in bf16."""
    labels = echo_label_maps(count, bench.size)[:, :: bench.size // size, :: bench.size // size]
    condition = make_condition(make_network(32, bench.size, head=32), labels, "table", True).to(bench.device)
    level = condition.level((size, size)) if with_table else None
    rows = len(level.patch_of_row) if with_table else 1
    normal = functools.partial(torch.randn, device=bench.device, dtype=torch.bfloat16)
    x, grad = normal(2, count, size, size, channels).permute(0, 1, 4, 2, 3)
    arguments = (
        x.requires_grad_(),
        normal(rows, 2 * channels).requires_grad_(),
        level,
        *normal(2, count, channels),
        True,
    )

    def backward() -> Callable[[], object]:
        out = modulation.modulate(*arguments)
        return lambda: torch.autograd.grad(out, arguments[:2], grad, retain_graph=True)

    return lambda: modulation.modulate(*arguments), backward


def measure_modulation(bench: Bench) -> None:
    """Normalisation, table, timestep and SiLU, by the kernels and plainly, with a table and with one row for all."""
    shapes = [(2, 32, 16)] if bench.dry_run else [(12, 256, 256), (12, 512, 64), (12, 2048, 16)]
    for shape, with_table in itertools.product(shapes, (False, True)):
        forward, backward = modulation_jobs(bench, *shape, with_table)
        for form in ("kernels", "plain"):
            name = f"modulation {shape[0]} x {shape[1]} x {shape[2]}^2 {'table' if with_table else 'one row':7s} {form}"
            if bench.late(name):
                continue
            with plainly() if form == "plain" else nullcontext():
                seconds = {"forward": bench.seconds(forward), "backward": bench.seconds(backward())}
            # Forward reads x twice and writes once, backward reads x and the gradient twice and writes once.
            values, told = shape[0] * shape[1] * shape[2] ** 2, []
            for what, passes in (("forward", 3), ("backward", 5)):
                share = 2e-9 * passes * values / seconds[what] / bench.bandwidth
                told.append(f"{what} {1e3 * seconds[what]:7.3f} ms, {100 * share:5.1f} %")
            bench.report(f"{name:42s} {'; '.join(told)} of copy bandwidth")


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
        (small, "table", False),
        (small, "auto", True),
        (small, "dense", True),
        (small, "dense", False),
        (best, "auto", False),
        (2 * best, "auto", True),
    ]
    for count, mode, checkpointing in variants:
        name = f"training batch {count:2d} {MODES[mode]:18s}"
        name += " recomputing" if checkpointing else "            "
        if bench.late(name):
            continue
        network.recompute(checkpointing)
        bench.free()
        try:
            began = time.perf_counter()
            job = training_step(bench, network, optimiser, average, count, mode)
            with plainly() if count == 1 else nullcontext():
                job()
                bench.sync()
                first = time.perf_counter() - began
                each = bench.seconds(job) / count
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
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
    variants += [(counts[1], size, "auto", True)]  # float32 weights still
    variants += [(count, size, "auto", True) for count in counts]
    variants += [(counts[1], size, mode, graph) for mode, graph in (("auto", False), ("table", True), ("dense", True))]
    variants += [(counts[1], size // 2, "auto", True), (counts[1], 2 * size, "auto", True)]
    for number, (count, pixels, mode, graph) in enumerate(variants):
        name = f"sampling {pixels:3d} px batch {count:2d} {MODES[mode]:18s}"
        name += " graph" if graph else " no graph"
        name += ", plain, float32 weights" if number == 0 else ", float32 weights" if number == 1 else ""
        if bench.late(name):
            continue
        bench.free()
        try:
            with plainly() if number == 0 else nullcontext():
                each = bench.seconds(sampling_step(bench, network, count, pixels, mode, graph)) / count
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            bench.report(f"{name}  does not fit")
            continue
        finally:
            if number == 1:
                round_weights(network, "bf16")
        share = bench.share(SAMPLING_TFLOP * (pixels / size) ** 2, each)
        bench.report(f"{name} {1e3 * each:8.2f} ms per image and step {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="a tiny network, on any device, without a log")
    bench = Bench(parser.parse_args().dry_run)
    try:
        for part in (measure_peaks, measure_convolution, measure_modulation, measure_training, measure_sampling):
            part(bench)
            bench.free()
    finally:  # what was measured before an error, too
        bench.log.say(f"\n{time.perf_counter() - bench.start:.0f} s in all\n")
        for line in bench.table:
            bench.log.say(line)
        if not bench.dry_run:
            bench.log.write()


if __name__ == "__main__":
    main()

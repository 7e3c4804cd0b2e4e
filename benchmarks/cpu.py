"""What the look-up table brings on a CPU, and how cost grows; the log goes to benchmarks/results/cpu.txt.

    python benchmarks/cpu.py [--threads 2] [--only table|share|memory|saving|growth|ranks|others] [--camus_nifti FOLDER]

The network computed as published, then with dense modulation, then with the table: 64 channels, 128 x 128, batch 4, in
one process, in turn. The last part runs the benchmarks of data preparation and of the sampling command.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from data_preparation import check_release
from diffusion_setup import echo_label_maps, make_condition, make_network
from project_commands import run
from published_network import published
from timing import RESULTS, ROOT, Log, describe, interleaved, ratio_of
from torch.utils.flop_counter import FlopCounterMode

from command import run_command
from config import Settings
from guided_diffusion.data.loading import Microbatch
from guided_diffusion.runs.node import keep_freed_memory
from guided_diffusion.training.background_writer import snapshot
from guided_diffusion.training.memory import activation_bytes
from guided_diffusion.training.resuming import write_checkpoint
from schema import check_settings

SAMPLING_STEPS = 20
RANK_STEPS = 6
RANK_FOLDER = "CPU_BENCHMARK_RANK_FOLDER"  # in the environment of a process that is one of the ranks
VARIANTS = {"published": "as published", "dense": "dense", "auto": "table"}


def evaluation(network, labels, mode, training):
    """The network as a function of x and t. `published`: the label maps as vectors, at each pixel of each layer."""
    if mode == "published":
        maps = F.one_hot(torch.from_numpy(labels), 5).permute(0, 3, 1, 2).float()
        return lambda x, t: published(network, x, t, maps)
    condition = make_condition(network, labels, mode, training)
    condition = condition if training else condition.remember_tables()
    return lambda x, t: network(x, t, condition)


def forward_job(channels, size, batch, mode):
    """One evaluation of the network as in sampling: the tables are there already."""
    evaluate = evaluation(make_network(channels, size, head=32), echo_label_maps(batch, size), mode, training=False)
    x, t = torch.randn(batch, 3, size, size), torch.arange(batch)

    def run():
        with torch.no_grad():
            evaluate(x, t)

    return run


def sampling_job(channels, size, batch, mode):
    """The part of sampling that a batch pays once: the condition and its tables, and one step."""
    network, labels = make_network(channels, size, head=32), echo_label_maps(batch, size)
    x, t = torch.randn(batch, 3, size, size), torch.arange(batch)

    def run():
        with torch.no_grad():
            evaluation(network, labels, mode, training=False)(x, t)

    return run


def training_job(channels, size, batch, mode, checkpointing):
    """Neighbourhoods, forward, backward and AdamW."""
    network, labels = make_network(channels, size, checkpointing, head=32), echo_label_maps(batch, size)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=mode != "published")
    x, t = torch.randn(batch, 3, size, size), torch.arange(batch)

    def run():
        optimiser.zero_grad()
        (evaluation(network, labels, mode, training=True)(x, t) ** 2).mean().backward()
        optimiser.step()

    return run


def measure_table(log: Log) -> None:
    shape = (64, 128, 4)
    forward = interleaved({mode: forward_job(*shape, mode) for mode in VARIANTS}, rounds=3)
    first = interleaved({mode: sampling_job(*shape, mode) for mode in VARIANTS}, rounds=2)
    variants = {mode: (mode, mode == "dense") for mode in VARIANTS} | {"recomputing": ("auto", True)}
    training = interleaved({name: training_job(*shape, *variant) for name, variant in variants.items()}, rounds=2)
    sampling = {
        mode: [one + (SAMPLING_STEPS - 1) * step for one, step in zip(first[mode], forward[mode], strict=False)]
        for mode in VARIANTS
    }
    log.say("64 channels, 128 x 128, batch 4; as published and dense recompute activations in training, the table not")
    for name, seconds in (("forward", forward), ("training step", training), ("20-step sampling", sampling)):
        for mode, told in VARIANTS.items():
            log.say(f"  {name:17s} {told:12s} {describe(seconds[mode])}")
        to_published, to_dense = (ratio_of(seconds[mode], seconds["auto"]) for mode in ("published", "dense"))
        log.say(f"  {name:17s} table: {to_published:.2f} times as fast as published, {to_dense:.2f} as dense")
    log.say("  sampling: the first step with its tables, and 19 steps, each measured by one")
    cost = ratio_of(training["recomputing"], training["auto"])
    log.say(f"  recomputing activations makes a training step with the table {cost:.2f} times as long")
    log.say()


def measure_share(log: Log) -> None:
    """Arithmetic of a training step per second of CPU time (other work counts little), beside one convolution's."""
    channels, size, batch = 64, 128, 4
    step = training_job(channels, size, batch, "auto", checkpointing=False)
    x = torch.randn(batch, channels, size, size).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3)
    jobs = {"training step": step, "one 3 x 3 convolution": lambda: torch.conv2d(x, weight, padding=1)}
    rates = {}
    log.say(f"{channels} channels, {size} x {size}, batch {batch}, table: arithmetic counted, seconds of CPU time")
    for name, job in jobs.items():
        job()
        with FlopCounterMode(display=False) as counter:
            job()
        work = counter.get_total_flops() / 1e9
        seconds = []
        for _ in range(5):
            start = time.process_time()
            job()
            seconds.append(time.process_time() - start)
        rates[name] = work / statistics.median(seconds)
        log.say(f"  {name:22s} {work:7.1f} GFLOP  {describe(seconds)}  {rates[name]:6.1f} GFLOP/s")
    share = rates["training step"] / rates["one 3 x 3 convolution"]
    log.say(f"  the step runs at {share:.0%} of the convolution's rate (aim 60%)")
    log.say()


def measure_memory(log: Log) -> None:
    """Bytes do not depend on the load of the machine: they are counted, not sampled."""
    log.say("64 channels, 128 x 128, batch 4: what a forward pass keeps for the backward pass, beside the weights")
    network, labels = make_network(64, 128, head=32), echo_label_maps(4, 128)
    for mode, recompute in (("dense", False), ("dense", True), ("auto", False), ("auto", True)):
        network.recompute(recompute)
        condition = make_condition(network, labels, mode, training=True)
        kept = activation_bytes(network, Microbatch(0, torch.zeros(4, 3, 128, 128), condition), "fp32")
        name = ("table" if mode == "auto" else mode) + (", recomputing" if recompute else "")
        log.say(f"  {name:20s} {kept / 1e6:8.0f} MB")
    log.say()


def measure_saving(log: Log) -> None:
    """How long a training stands still for a checkpoint: weights, their average, and AdamW's two averages."""
    network, settings = make_network(64, 128, head=32), Settings(img_size=128, num_channels=64)
    weights = dict(network.state_dict())
    files = {"model000001.pt": weights, "ema_0.9999_000001.pt": weights}
    state = {"optimizer": [snapshot(weights), snapshot(weights)]}  # copies: a tensor that occurs twice is saved once
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        jobs = {
            "written at once": lambda: write_checkpoint(folder, 1, files, state, settings, 0),
            "copied, to be written in the background": lambda: snapshot([files, state]),
        }
        seconds = interleaved(jobs, rounds=3)
    size = 4 * sum(tensor.nbytes for tensor in weights.values())
    log.say(f"a checkpoint of {size / 1e6:.0f} MB holds the training up for")
    for name, taken in seconds.items():
        log.say(f"  {name:40s} {describe(taken)}")
    log.say()


def measure_growth(log: Log) -> None:
    log.say("table, 32 channels: a training step and an evaluation by batch and size")
    for size, batch in ((64, 1), (64, 4), (64, 16), (32, 4), (128, 4)):
        jobs = {
            "training": training_job(32, size, batch, "auto", False),
            "evaluation": forward_job(32, size, batch, "auto"),
        }
        for name, seconds in interleaved(jobs, rounds=2).items():
            each = 1e3 * min(seconds) / batch
            log.say(
                f"  {size:3d} x {size:<3d} batch {batch:2d} {name:10s} {describe(seconds)}   {each:8.1f} ms per image"
            )
    log.say()


def train_a_rank(folder: str) -> None:
    """One rank of `measure_ranks`: a few steps of 4 images in all, under DistributedDataParallel."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=ranks)
    network = make_network(32, 64, head=32)
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    labels, x, t = echo_label_maps(4 // ranks, 64, rank), torch.randn(4 // ranks, 3, 64, 64), torch.arange(4 // ranks)
    for step in range(RANK_STEPS + 1):
        if step == 1:
            start = time.perf_counter()
        condition = make_condition(network, labels, "auto", training=True)
        (parallel(x, t, condition) ** 2).mean().backward()
    torch.distributed.barrier()
    if rank == 0:
        print((time.perf_counter() - start) / RANK_STEPS)
    torch.distributed.destroy_process_group()


def measure_ranks(log: Log) -> None:
    log.say("ranks of one thread each, 32 channels, 64 x 64, 4 images per step in all")
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            common = os.environ | {"WORLD_SIZE": str(ranks), RANK_FOLDER: folder}
            started = [
                subprocess.Popen(
                    [sys.executable, __file__], env=common | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
                )
                for rank in range(ranks)
            ]
            output = [process.communicate()[0] for process in started]
        if any(process.returncode for process in started):
            raise RuntimeError(f"a rank of {ranks} failed")
        log.say(f"  {ranks} ranks {float(output[0]):8.3f} s per step")
    log.say()


def run_others(log: Log, camus_nifti: Path | None) -> None:
    """The benchmarks that have a log of their own."""
    release = ["--camus_nifti", camus_nifti] if camus_nifti else []
    for name, flags in (("data_preparation", release), ("sampling", [])):
        log.say(f"{name}: {run(ROOT / 'benchmarks' / f'{name}.py', *flags):.0f} s; see its own log")


PARTS = {
    "table": measure_table,
    "share": measure_share,
    "memory": measure_memory,
    "saving": measure_saving,
    "growth": measure_growth,
    "ranks": measure_ranks,
}


@dataclass
class BenchmarkSettings:
    threads: Annotated[int, Interval(ge=1, le=1024)] = os.cpu_count() or 1
    """Of torch."""
    only: Literal["all", "table", "share", "memory", "saving", "growth", "ranks", "others"] = "all"
    """One part alone; its log is cpu_PART.txt."""
    camus_nifti: Path | None = None
    """A CAMUS release for the benchmark of data preparation (default: phantoms)."""


def measure(settings: BenchmarkSettings) -> None:
    check_settings(settings)
    check_release(settings.camus_nifti)
    keep_freed_memory()  # as a training does
    torch.set_num_threads(settings.threads)
    name = "cpu.txt" if settings.only == "all" else f"cpu_{settings.only}.txt"
    log = Log(RESULTS / name, f"{settings.threads} threads of torch")
    for part, measure_part in PARTS.items():
        if settings.only in ("all", part):
            measure_part(log)
    if settings.only in ("all", "others"):
        run_others(log, settings.camus_nifti)
    log.write()


if __name__ == "__main__":
    if RANK_FOLDER in os.environ:
        train_a_rank(os.environ[RANK_FOLDER])
    else:
        sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))

"""What a training tells its reader: its progress, speed and memory, where things are and what to do next."""

import resource
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from config import Settings
from guided_diffusion.data.batches import BatchSource, worker_count
from guided_diffusion.data.loading import Examples, Microbatch
from guided_diffusion.network.precision import autocast
from guided_diffusion.runs import storage
from guided_diffusion.runs.world import World
from guided_diffusion.training.optimisation import learning_rate
from guided_diffusion.training.run import TrainingRun
from progress import next_step

BACKWARD_COST = 2  # of a backward pass, in forward passes


@torch.no_grad()
def count_flops(network: nn.Module, microbatch: Microbatch, precision: str) -> float:
    """Floating point operations of training on one sample: forward and backward, without recomputation."""
    network.eval()
    x_start = microbatch.x_start()
    t = torch.zeros(len(microbatch), dtype=torch.int64, device=x_start.device)
    with FlopCounterMode(display=False) as counter, autocast(precision, x_start.device):
        network(x_start, t, microbatch.condition)
    return (1 + BACKWARD_COST) * counter.get_total_flops() / len(microbatch)


def introduction(
    network: nn.Module,
    examples: Examples,
    validation: Examples | None,
    precision: str,
    settings: Settings,
    world: World,
) -> list[str]:
    """The lines at the start of a log."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    held = sum(tensor.nbytes for tensor in examples.held())
    where = f"held in memory ({held / 2**20:.1f} MB)" if held else "decoded anew at each use"
    attended = ", ".join(map(str, settings.attended_sizes())) or "no level"
    steps = f"for {settings.lr_anneal_steps} steps" if settings.lr_anneal_steps else "until it is stopped"
    return [
        f"training on {settings.datadir} {steps}, into {settings.savedir}",
        f"{parameters / 1e6:.1f} M parameters, attention at {attended} of {settings.level_sizes()} pixels and in the "
        f"middle, {precision}, on {world.size} x {world.device.type} "
        f"({settings.batch_size_train} x {world.size} images a step)",
        f"{len(examples)} training images, {where}; {len(validation) if validation else 'none'} for validation; "
        f"{worker_count(settings, world)} loader processes per rank",
    ]


def ending(settings: Settings, world: World, step: int | None, averages: str) -> str:
    """The last lines of a log: the files, and the command that samples from the averaged weights in `averages`."""
    if step is None:
        return "nothing was trained"
    best = storage.join(settings.savedir, averages)
    maps = ["--datadir", maps_to_sample_for(settings)]
    if settings.dataset_mode != "camus":
        maps += ["--dataset_mode", settings.dataset_mode]
    how = "--resume_checkpoint", best, "--results_dir", "./results", *few_steps(settings), "--all", True
    launcher = f"mpiexec -np {world.size} python" if world.launcher == "mpi" else "python"
    return (
        f"step {step}: weights, log and previews are in {settings.savedir}\n"
        f"averaged weights, to sample from: {best}\n"
        + next_step("semantic_diffusion_model/image_sample.py", *maps, *how, launcher=launcher)
    )


def few_steps(settings: Settings) -> tuple[object, ...]:
    """The flags by which a network trained with `settings` is sampled from in few steps."""
    if settings.timestep_respacing:
        return "--timestep_respacing", settings.timestep_respacing
    return "--num_steps", min(10, settings.diffusion_steps)


def maps_to_sample_for(settings: Settings) -> str:
    """The folder of deformed label maps beside that of the training, or a word in its place if there is none."""
    if settings.dataset_mode != "camus":
        return settings.datadir
    view, is_sector, _ = settings.datadir.rstrip("/").rpartition("_sector")
    deformed = f"{view}_augmented"
    return deformed if is_sector and storage.is_folder(deformed) else "AUGMENTED"


def progress_row(run: TrainingRun) -> dict[str, float]:
    """The columns of progress.csv that do not depend on the machine. Waits for the device and all ranks."""
    return {
        "step": run.step,
        "samples": run.samples,
        "lr": learning_rate(run.step - 1, run.settings),
        "lr_anneal_steps": run.settings.lr_anneal_steps,
        **run.statistics.read(run.world),
        "param_norm": float(run.optimiser.parameter_norm()),
        "lg_loss_scale": float(run.optimiser.lg_loss_scale),
        "skipped_steps": int(run.optimiser.skipped),
    }


class Clock:
    """Times the steps between two rows of the log: not what is saved, validated and drawn in between."""

    def __init__(self, samples: int, flops_per_sample: float):
        self.samples = samples
        self.flops_per_sample = flops_per_sample
        self.started = time.perf_counter()
        self.waited = 0.0

    def restart(self, samples: int, source: BatchSource) -> None:
        self.samples, self.started, self.waited = samples, time.perf_counter(), source.seconds_waited

    def read(self, samples: int, source: BatchSource, world: World) -> dict[str, float]:
        """Columns about the machine, since the last call (call when the device has caught up)."""
        seconds = time.perf_counter() - self.started
        waited = world.gather_objects(source.seconds_waited - self.waited)
        per_second = (samples - self.samples) / seconds
        self.restart(samples, source)
        return {
            "samples_per_second": per_second,
            "data_wait_seconds": sum(waited) / len(waited),
            "data_wait_share": sum(waited) / len(waited) / seconds,
            "memory_gb": _memory(world.device) / 2**30,
            "tflops": per_second * self.flops_per_sample / 1e12,
        }


def _memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

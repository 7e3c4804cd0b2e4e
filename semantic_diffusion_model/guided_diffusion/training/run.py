"""What a training run consists of, and how all of it is saved and loaded."""

import os
from collections.abc import Mapping

import torch

from config import Settings
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.from_settings import build_diffusion, build_network
from guided_diffusion.network.precision import choose_precision
from guided_diffusion.process.random_streams import digest_of, seed_of
from guided_diffusion.process.timesteps import training_sampler
from guided_diffusion.runs import checkpoints, storage
from guided_diffusion.runs.world import World
from guided_diffusion.training import resuming
from guided_diffusion.training.background_writer import BackgroundWriter, snapshot
from guided_diffusion.training.beginning import Beginning
from guided_diffusion.training.ema import Averages
from guided_diffusion.training.optimisation import Optimiser
from guided_diffusion.training.saved_state import check_arrays
from guided_diffusion.training.starting import take_weights
from guided_diffusion.training.step_statistics import StepStatistics
from state_dicts import load_weights


class TrainingRun:
    """Network, process, optimiser, averaged weights and statistics of one run, after `step` updates.

    `samples` images were used so far, by all ranks. `microbatch_size` of them go through the network at once, which is
    settled before the first step; `memory_choice` is (batch, microbatch size) where memory decided that. `saved_at` is
    the step of the newest checkpoint in savedir; `saved_row` and `on_schedule` are what `save` was given of the one
    that is gone on from. `origin` tells in words which weights it has before its first step, `beginning` where those of
    its step 0 came from.
    """

    def __init__(self, settings: Settings, world: World, examples: Examples, validation: Examples | None):
        self.settings = settings
        self.world = world
        self.examples = examples
        self.validation = validation
        self.precision = choose_precision(settings, world.device)
        torch.manual_seed(seed_of(settings.seed, "weights"))
        # Features lie channels last; a GPU's convolutions want that of the weights too, a CPU's are faster without.
        layout = torch.channels_last if world.device.type == "cuda" else torch.contiguous_format
        self.network = build_network(settings).to(world.device, memory_format=layout)
        self.diffusion = build_diffusion(settings)
        self.optimiser = Optimiser(self.network.parameters(), settings, self.precision, world.device)
        self.averages = Averages(self.network, settings.ema_rates(), settings.ema_warmup)
        steps = self.diffusion.num_timesteps
        self.timesteps = training_sampler(settings.schedule_sampler, self.diffusion.alphas_cumprod, world.device)
        terms = ["loss"] if settings.use_kl else ["loss", "mse", *(["vb"] if settings.learn_sigma else [])]
        self.statistics = StepStatistics(terms, steps, world.device)
        self.step = self.samples = self.microbatch_size = 0
        self.memory_choice: tuple[int, int] | None = None
        self.saved_at: int | None = None
        self.saved_row: dict[str, float] | None = None
        self.on_schedule = False
        self.origin = "random weights"
        self.beginning = Beginning()
        self.writer = BackgroundWriter()
        self.description = resuming.describe_run(settings, self.precision, examples.pairs, world.size)

    def load(self, start: resuming.Start) -> list[str]:
        """Go on from the complete checkpoint `start`; return warnings. Raises UserError."""
        folder, step = start.folder, start.step
        state = resuming.read_state(folder, step)
        warnings = resuming.check_same_run(state["run"], self.description, self.settings, storage.join(folder, "."))
        name = checkpoints.model_name(step)
        load_weights(self.network, resuming.read_weights(folder, name), storage.join(folder, name))
        for index, rate in enumerate(self.averages.rates):
            name = checkpoints.ema_name(rate, step)
            if storage.exists(storage.join(folder, name)):
                self.averages.load(index, resuming.read_weights(folder, name))
            else:
                self.averages.load(index, self.network.state_dict())
                warnings.append(f"{name} is missing: this average begins anew, from the weights of step {step}")
        self.averages.updates = state["ema_updates"]
        self.optimiser.load_state_dict(state["optimizer"])
        where = start.state
        own = {name: value.shape for name, value in self.timesteps.state_dict().items()}
        timesteps = self.timesteps.readable(state["timesteps"])
        check_arrays(timesteps, own, f"{where}, timesteps")
        check_arrays({"metrics": state["metrics"]}, {"metrics": self.statistics.sums.shape}, where)
        self.timesteps.load_state_dict(timesteps)
        self.statistics.load(state["metrics"], self.world)
        self.origin = f"those of step {step}, {digest_of(map(str, state['files'].items()))}"
        self.step, self.samples, self.memory_choice = step, state["samples"], state.get("parts")
        self.beginning = start.beginning
        if folder != self.settings.savedir:  # another run from here on
            path = self.settings.resume_checkpoint
            digest = state["files"].get(os.path.basename(path), "")
            self.beginning = Beginning(path=path, sha256=digest if isinstance(digest, str) else "")
        else:
            self.saved_at, self.saved_row, self.on_schedule = step, state.get("row"), bool(state.get("on_schedule"))
        return [f"going on from step {step} in {folder}", *(f"warning: {text}" for text in warnings)]

    def load_weights(self) -> list[str]:
        """Start at step 0, from the weights in --resume_checkpoint if there are any; return what is to be told."""
        if not self.settings.resume_checkpoint:
            return []
        checkpoint = checkpoints.read_checkpoint(self.settings.resume_checkpoint)
        lines = take_weights(self.network, checkpoint)
        self.origin = f"{os.path.basename(checkpoint.path)}, {checkpoint.sha256[:8]}"
        self.beginning = Beginning(path=self.settings.resume_checkpoint, sha256=checkpoint.sha256)
        for index in range(len(self.averages.rates)):
            self.averages.load(index, self.network.state_dict())
        return lines

    def is_finite(self) -> bool:
        """Whether all weights are finite numbers; the same on every rank. Waits for the device."""
        return all(bool(parameter.isfinite().all()) for parameter in self.network.parameters())

    def save(self, row: Mapping[str, float] | None, on_schedule: bool) -> None:
        """Have a checkpoint written, in the background; every rank must call this.

        `row`: what the log is about to say of this step, but for the validation; `on_schedule`: whether it is saved
        for its step, and so validated and drawn, not because the run was asked to stop.
        """
        statistics = self.statistics.state(self.world)
        if self.world.is_main:
            self.writer.wait()  # so that no more than one copy of the weights is held
            weights = {checkpoints.model_name(self.step): self.network.state_dict()}
            for index, rate in enumerate(self.averages.rates):
                weights[checkpoints.ema_name(rate, self.step)] = self.averages.state_dict(index)
            state = {
                "samples": self.samples,
                "parts": self.memory_choice,
                "optimizer": self.optimiser.state_dict(),
                "ema_updates": self.averages.updates,
                "timesteps": self.timesteps.state_dict(),
                "metrics": statistics,
                "run": self.description,
                "row": None if row is None else {name: float(value) for name, value in row.items()},
                "on_schedule": on_schedule,
                "beginning": dict(self.beginning),
            }
            keep, folder = self.settings.keep_checkpoints, self.settings.savedir
            copies = snapshot(weights), snapshot(state)
            self.writer.submit(resuming.write_checkpoint, folder, self.step, *copies, self.settings, keep)
        self.saved_at = self.step

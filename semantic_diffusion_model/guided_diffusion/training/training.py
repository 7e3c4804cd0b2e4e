"""The training loop.

To go on after an interruption, run the same command again.
"""

from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from command import UserError
from config import Settings
from guided_diffusion.data.loading import BatchSource, Examples, Microbatch
from guided_diffusion.network.from_settings import build_diffusion, build_network
from guided_diffusion.process.random_streams import normal, seed_of, stream, uniform
from guided_diffusion.process.timesteps import TRAINING_SAMPLERS
from guided_diffusion.runs import checkpoints, distributed, storage
from guided_diffusion.runs.world import AgreedError, World
from guided_diffusion.training import resuming
from guided_diffusion.training.background_writer import BackgroundWriter, snapshot
from guided_diffusion.training.ema import Averages
from guided_diffusion.training.memory import device_memory, fit_step
from guided_diffusion.training.optimisation import (
    BAD_STEPS_IN_A_ROW,
    Optimiser,
    autocast,
    average_gradients,
    choose_precision,
    learning_rate,
)
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.training.preview import draw_preview, write_preview
from guided_diffusion.training.reporting import Clock, count_flops, ending, introduction
from guided_diffusion.training.run_log import MetricsLog, SilentLog
from guided_diffusion.training.startup import prepare
from guided_diffusion.training.step_statistics import StepMetrics, columns
from guided_diffusion.training.validation import validate


def train(settings: Settings, given: set[str]) -> None:
    """Train as `settings` say, on all ranks; `given` names the settings that stood on the command line.

    Raises UserError.
    """
    world = distributed.start(settings.device)
    settings, start, examples, validation = world.together(prepare, settings, given, world)
    run = TrainingRun(settings, world, examples, validation)
    notes = world.together(run.load, start) if start else world.together(run.load_weights)
    with run.open_log() as log, StopRequest(world) as stop, run.writer:
        for text in (*introduction(run.network, examples, validation, run.precision, settings, world), *notes):
            log.say(text)
        run.loop(log, stop)
        stop.finishing()
        run.writer.wait()
        averages = checkpoints.ema_name(run.averages.rates[0], run.step)
        log.say(ending(settings, world, run.saved_at, averages))


class TrainingRun:
    """All that a run consists of, and what is done with it."""

    def __init__(self, settings: Settings, world: World, examples: Examples, validation: Examples | None):
        self.settings = settings
        self.world = world
        self.examples = examples
        self.validation = validation
        self.precision = choose_precision(settings, world.device)
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(seed_of(settings.seed, "weights"))
        # Features lie channels last; a GPU's convolutions want that of the weights too, a CPU's are faster without.
        layout = torch.channels_last if world.device.type == "cuda" else torch.contiguous_format
        self.network = build_network(settings).to(world.device, memory_format=layout)
        self.diffusion = build_diffusion(settings)
        self.optimiser = Optimiser(self.network.parameters(), settings, self.precision, world.device)
        self.averages = Averages(self.network, settings.ema_rates(), settings.ema_warmup)
        steps = self.diffusion.num_timesteps
        self.timesteps = TRAINING_SAMPLERS[settings.schedule_sampler](steps, world.device)
        self.terms = ["loss"] if settings.use_kl else ["loss", "mse", *(["vb"] if settings.learn_sigma else [])]
        self.metrics = StepMetrics(self.terms, steps, world.device)
        self.step = self.samples = 0
        self.parts: tuple[int, int] | None = None  # a batch, and how many of its images memory allowed at once
        self.saved_at: int | None = None
        self.writer = BackgroundWriter()
        self.flops_per_sample = 0.0
        self.description = resuming.describe_run(settings, self.precision, examples.pairs, world.size)

    # --- State --------------------------------------------------------------------------------------------------------

    def load(self, start: tuple[str, int]) -> list[str]:
        """Go on from the complete checkpoint `start` (folder, step); return warnings. Raises UserError."""
        folder, step = start
        state = resuming.read_state(folder, step)
        warnings = resuming.check_same_run(state["run"], self.description, self.settings, storage.join(folder, "."))
        self.network.load_state_dict(self._read(folder, checkpoints.model_name(step)))
        for index, rate in enumerate(self.averages.rates):
            self.averages.load(index, self._read(folder, checkpoints.ema_name(rate, step)))
        self.averages.updates = state["ema_updates"]
        self.optimiser.load_state_dict(state["optimizer"])
        self.timesteps.load_state_dict(state["timesteps"])
        self.metrics.load(state["metrics"], self.world)
        self.step, self.samples, self.parts = step, state["samples"], state.get("parts")
        if folder == self.settings.savedir:
            self.saved_at = step
        return [f"going on from step {step} in {folder}", *(f"warning: {text}" for text in warnings)]

    def load_weights(self) -> list[str]:
        """Start at step 0, from the weights in --resume_checkpoint if there are any."""
        if not self.settings.resume_checkpoint:
            return []
        checkpoint = checkpoints.read_checkpoint(self.settings.resume_checkpoint)
        try:
            self.network.load_state_dict(checkpoint.state_dict)
        except RuntimeError as error:
            raise UserError(
                f"{checkpoint.path} does not fit the network: {str(error).splitlines()[1].strip()}"
            ) from None
        for index in range(len(self.averages.rates)):
            self.averages.load(index, checkpoint.state_dict)
        return [f"starting at step 0 from the weights in {checkpoint.path}", *filter(None, [checkpoint.note])]

    @staticmethod
    def _read(folder: str, name: str) -> dict[str, torch.Tensor]:
        return checkpoints.read_torch(storage.join(folder, name))

    def save(self) -> None:
        """Have a checkpoint written, in the background; every rank must call this."""
        metrics = self.metrics.state(self.world)
        if self.world.is_main:
            self.writer.wait()  # so that no more than one copy of the weights is held
            weights = {checkpoints.model_name(self.step): self.network.state_dict()}
            for index, rate in enumerate(self.averages.rates):
                weights[checkpoints.ema_name(rate, self.step)] = self.averages.state_dict(index)
            state = {
                "samples": self.samples,
                "parts": self.parts,
                "optimizer": self.optimiser.state_dict(),
                "ema_updates": self.averages.updates,
                "timesteps": self.timesteps.state_dict(),
                "metrics": metrics,
                "run": self.description,
            }
            keep, folder = self.settings.keep_checkpoints, self.settings.savedir
            copies = snapshot(weights), snapshot(state)
            self.writer.submit(resuming.write_checkpoint, folder, self.step, *copies, self.settings, keep)
        self.saved_at = self.step

    # --- The loop -----------------------------------------------------------------------------------------------------

    def loop(self, log: MetricsLog | SilentLog, stop: StopRequest) -> None:
        """Step until lr_anneal_steps, or until asked to stop; log, save, validate and draw on the way."""
        settings = self.settings
        last = settings.lr_anneal_steps or None
        if last is not None and self.step >= last:
            return
        log.say(self.fit_into_memory())
        parallel = self._parallel()
        source = BatchSource(self.examples, settings, self.world, self.samples, self.at_once)
        clock = Clock(self.samples)
        while last is None or self.step < last:
            microbatches = source.next_step()
            if not self.flops_per_sample:
                one = self.examples.microbatch([0]).to(self.world.device)
                self.flops_per_sample = count_flops(self.network, one, self.precision)
                clock.restart(self.samples, source)
            self.update(parallel, microbatches)
            log.advance()
            self.writer.check()
            stopping = stop.agreed()
            saving = self.step % settings.save_interval == 0 or self.step == last
            if saving or self.step % settings.log_interval == 0:
                row = self.row() | clock.read(self.samples, source, self.world, self.flops_per_sample)
                self.refuse_to_go_astray()
                log.row(row | (self.validate() if saving else {}))
            if saving or stopping:
                self.save()
                if saving and settings.preview_steps:
                    self.preview(log)
                log.publish()
                clock.restart(self.samples, source)
            if stopping and self.step != last:
                self.writer.wait()
                log.say(f"asked to stop: saved at step {self.step}; run the same command to go on")
                return

    def fit_into_memory(self) -> str:
        """Choose how many images go through the network at once, and whether their activations are kept; say which."""
        settings, batch = self.settings, self.settings.batch_size_train
        # Dropout draws its numbers for all images at once: parts would change the result.
        asked = min(settings.microbatch, batch) if settings.microbatch > 0 else batch if settings.dropout else None
        # A run keeps to the parts it began with, whatever memory is free later: then it resumes bit for bit.
        before = self.parts[1] if self.parts and self.parts[0] == batch else None
        room = device_memory(self.world) - self.optimiser.bytes_to_come()
        wanted = asked or before, settings.use_checkpoint
        images, recompute = fit_step(self.network, self.examples, batch, *wanted, self.precision, room)
        self.at_once = min(self.world.gather_objects(images))  # the same on all ranks
        self.parts = None if asked else (batch, self.at_once)
        self.network.recompute(recompute)
        why = "as asked" if asked else "as before" if before else "as memory allows"
        parts = f"; {self.at_once} of {batch} images at once, {why}" if self.at_once < batch else ""
        return f"activations are {'recomputed' if recompute else 'kept'}{parts}"

    def _parallel(self) -> torch.nn.Module:
        if self.world.size > 1 and self.settings.distributed_data_parallel:
            return DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        return self.network

    def update(self, parallel: torch.nn.Module, microbatches: list[Microbatch]) -> None:
        """One step: gradients of this rank's microbatches, averaged over all ranks, and the update of the weights."""
        settings, world = self.settings, self.world
        self.network.train()
        if settings.dropout:
            torch.manual_seed(seed_of(settings.seed, "dropout", self.step, world.rank))
        drawn = []
        for number, microbatch in enumerate(microbatches, start=1):
            is_last = number == len(microbatches)
            wait = (
                parallel.no_sync() if isinstance(parallel, DistributedDataParallel) and not is_last else nullcontext()
            )
            with wait:
                t, losses, weights = self.losses(parallel, microbatch)
                # A loss that is not finite must spoil the gradient, on all ranks, so that the step is skipped.
                spoil = torch.where(losses["loss"].isfinite(), 1.0, torch.nan)
                self.optimiser.backward((losses["loss"] * weights * spoil).sum() / settings.batch_size_train)
            self.metrics.add_losses(losses, t, weights)
            drawn.append((t, losses["loss"].detach()))
        if world.size > 1 and not settings.distributed_data_parallel:
            average_gradients(self.network.parameters(), world.size)
        norm = self.optimiser.step(learning_rate(self.step, settings))
        if world.is_main:  # the same on all ranks: told once, sums do not depend on their number
            self.metrics.add_gradient_norm(norm)
        self.averages.update()
        if settings.schedule_sampler != "uniform":
            t, loss = (torch.cat(parts) for parts in zip(*drawn, strict=True))
            self.timesteps.update(world.all_gather(t), world.all_gather(loss))
        self.step += 1
        self.samples += settings.batch_size_train * world.size

    def losses(self, network: torch.nn.Module, microbatch: Microbatch):
        """Timesteps [N], loss terms [N] each, and loss weights [N]; noise and timesteps by (seed, sample)."""
        device = self.world.device
        x_start = microbatch.x_start()
        first = microbatch.first
        streams = [stream(device, self.settings.seed, "diffuse", first + i) for i in range(len(microbatch))]
        t, weights = self.timesteps.draw(uniform(streams))
        noise = normal(streams, x_start.shape[1:])

        def predict(x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            with autocast(self.precision, device):
                return network(x_t, timesteps, microbatch.condition).float()

        return t, self.diffusion.training_losses(predict, x_start, t, noise), weights

    # --- What is told -------------------------------------------------------------------------------------------------

    def row(self) -> dict[str, float]:
        """The columns of progress.csv that do not depend on the machine. Waits for the device and all ranks."""
        return {
            "step": self.step,
            "samples": self.samples,
            "lr": learning_rate(self.step - 1, self.settings),
            "lr_anneal_steps": self.settings.lr_anneal_steps,
            **self.metrics.read(self.world),
            "param_norm": float(self.optimiser.parameter_norm()),
            "lg_loss_scale": float(self.optimiser.lg_loss_scale),
            "skipped_steps": int(self.optimiser.skipped),
        }

    def refuse_to_go_astray(self) -> None:
        """Raise AgreedError, on all ranks, after too many steps in a row without a finite loss."""
        in_a_row = int(self.optimiser.skipped_in_a_row)
        if in_a_row < BAD_STEPS_IN_A_ROW:
            return
        good = "there is no checkpoint yet"
        self.writer.wait()
        if self.saved_at is not None:
            name = checkpoints.model_name(self.saved_at)
            good = f"the last good checkpoint is {storage.join(self.settings.savedir, name)}"
        raise AgreedError(
            f"the last {in_a_row} steps up to {self.step} had an infinite or undefined (NaN) loss or gradient and were "
            f"skipped: try a lower --lr, or --max_grad_norm 1; {good}"
        )

    def validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        with self.averages.applied():
            return validate(
                self.network, self.diffusion, self.validation, self.settings, self.world, self.precision, self.at_once
            )

    def preview(self, log: MetricsLog | SilentLog) -> None:
        examples = self.validation or self.examples
        with self.averages.applied():
            grid = draw_preview(self.network, self.diffusion, examples, self.settings, self.world, self.precision)
        if self.world.is_main:
            write_preview(storage.join(self.settings.savedir, f"preview_{self.step:06d}.png"), grid)
            log.image("preview", grid, self.step)

    def open_log(self) -> MetricsLog | SilentLog:
        if not self.world.is_main:
            return SilentLog()
        return MetricsLog(self.settings.savedir, self.step, self.settings.lr_anneal_steps, columns(self.terms))

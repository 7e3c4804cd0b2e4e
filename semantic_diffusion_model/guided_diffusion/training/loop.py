"""The training loop: step, tell, save, until the last step or until asked to stop.

To go on after an interruption, run the same command again.
"""

from collections.abc import Sequence

import torch

from command import UserError
from config import Settings
from guided_diffusion.data.batches import BatchSource
from guided_diffusion.data.loading import Microbatch
from guided_diffusion.runs import checkpoints, distributed, storage
from guided_diffusion.runs.sole_use import sole_use
from guided_diffusion.runs.world import AgreedError, World
from guided_diffusion.training import startup, unfinished
from guided_diffusion.training.looking import make_up, tell, what_is_owed
from guided_diffusion.training.memory import device_memory, fit_step
from guided_diffusion.training.optimisation import BAD_STEPS_IN_A_ROW
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.training.rehearsal import rehearse
from guided_diffusion.training.reporting import Clock, count_flops, ending, introduction, progress_row
from guided_diffusion.training.resuming import settle_savedir
from guided_diffusion.training.run import TrainingRun
from guided_diffusion.training.run_log import RunLog, SilentLog
from guided_diffusion.training.update import parallel_network, update
from out_of_memory import is_out_of_memory, memory_of


def train(settings: Settings, given: set[str]) -> int:
    """Train as `settings` say, on all ranks; `given` names the settings that stood on the command line. The exit code.

    Raises UserError.
    """
    world = distributed.start(settings.device)
    world.fail_together(startup.check_training_settings, settings)
    with sole_use(settings.savedir, "savedir", world):
        world.fail_together(settle_savedir, settings, world)
        return train_alone(settings, given, world)


def train_alone(settings: Settings, given: set[str], world: World) -> int:
    """As `train`, while no other run works in savedir."""
    found = world.fail_together(startup.check_and_read, settings, given, world)
    settings, start, examples, validation = found.settings, found.start, found.examples, found.validation
    world.must_agree(startup.what_was_found(start, examples, validation))
    run = TrainingRun(settings, world, examples, validation)
    notes = world.fail_together(run.load, start) if start else world.fail_together(run.load_weights)
    world.must_agree({"the precision": run.precision, "the weights": run.origin})
    with open_log(run) as log, StopRequest(world, settings.stop_grace) as stop, run.writer:
        introduced = introduction(run.network, examples, validation, run.precision, settings, world)
        for text in (*introduced, *notes, *found.notes):
            log.say(text)
        loop(run, log, stop)
        stop.finishing()
        run.writer.wait()
        averages = checkpoints.ema_name(run.averages.rates[run.averages.usual], run.step)
        log.say(ending(settings, world, run.saved_at, averages))
    return stop.exit_code()


def open_log(run: TrainingRun) -> RunLog | SilentLog:
    """The log of `run`, in its savedir; a silent one on every rank but one."""
    if not run.world.is_main:
        return SilentLog()
    goes_on = run.saved_at is not None  # from a checkpoint in savedir
    return RunLog(run.settings.savedir, run.step, run.settings.lr_anneal_steps, run.statistics.columns, goes_on)


def loop(run: TrainingRun, log: RunLog | SilentLog, stop: StopRequest) -> None:
    """Step until lr_anneal_steps, or until asked to stop; log, save, validate and draw on the way."""
    settings = run.settings
    last = settings.lr_anneal_steps or None
    done = last is not None and run.step >= last
    owed = what_is_owed(run, log)
    if done and not any(owed):
        return
    log.say(fit_into_memory(run))
    make_up(run, log, stop, *owed)
    if done:
        return
    source = BatchSource(run.examples, settings, run.world, run.samples, run.microbatch_size)
    if source.note:
        log.say(source.note)
    one = run.examples.microbatch([0], training=True).to(run.world.device)
    network = parallel_network(run, one)
    clock = Clock(run.samples, count_flops(run.network, one, run.precision))
    run.world.fail_together(clear_savedir, run)
    while last is None or run.step < last:
        microbatches = source.next_step()
        take_step(run, network, microbatches, stop)
        log.advance()
        run.writer.check()
        stopping = stop.agreed()
        saving = run.step % settings.save_interval == 0 or run.step == last
        row = None
        if saving or run.step % settings.log_interval == 0:
            row = progress_row(run) | clock.read(run.samples, source, run.world)
            refuse_to_go_astray(run)
        if saving or stopping:
            refuse_lost_weights(run)
            run.save(row, saving)  # first: what follows may fail, or be given no time
        if row:
            tell(run, log, stop, row, saving)
        if saving or stopping:
            log.publish()
            clock.restart(run.samples, source)
        if stopping and run.step != last:
            run.writer.wait()
            log.say(f"asked to stop: saved at step {run.step}; run the same command to go on")
            return


def clear_savedir(run: TrainingRun) -> None:
    """Have rank 0 delete what --overwrite gives up: now that all was read, and the first step is about to be taken."""
    if run.world.is_main and run.settings.overwrite:
        unfinished.remove_strays(run.settings.savedir, run.saved_at)


def take_step(
    run: TrainingRun, network: torch.nn.Module, microbatches: Sequence[Microbatch], stop: StopRequest
) -> None:
    """`update`, but raise UserError where the memory is too small for this step, after others went well."""
    try:
        update(run, network, microbatches, stop.alive)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{memory_of(run.world.device)} was full in step {run.step + 1}: run the same command with --microbatch "
            f"{max(1, run.microbatch_size // 2)}, or --use_checkpoint True, and it goes on; {last_good(run)}"
        ) from None


def fit_into_memory(run: TrainingRun) -> str:
    """Settle how many images go through the network at once, and whether their activations are kept; say which."""
    settings, batch = run.settings, run.settings.batch_size_train
    # Dropout draws its numbers for all images at once: microbatches would change the result.
    asked = min(settings.microbatch, batch) if settings.microbatch > 0 else batch if settings.dropout else None
    # A run keeps to the microbatches it began with, whatever memory is free later: then it resumes bit for bit.
    before = run.memory_choice[1] if run.memory_choice and run.memory_choice[0] == batch else None
    room = device_memory(run.world) - run.optimiser.bytes_to_come()
    wanted = asked or before, settings.use_checkpoint
    own = fit_step(run.network, run.examples, batch, *wanted, run.precision, room)
    of_ranks = run.world.gather_objects(own)  # so that all do the same
    run.microbatch_size = min(images for images, _ in of_ranks)
    recompute = any(recompute for _, recompute in of_ranks)
    run.network.recompute(recompute)
    chosen = run.microbatch_size
    if run.world.device.type == "cuda":
        recompute = rehearse(run, recompute)
    run.memory_choice = None if asked else (batch, run.microbatch_size)
    shrunk = run.microbatch_size < chosen
    why = "as asked" if asked and not shrunk else "as before" if before and not shrunk else "as memory allows"
    split = f"; {run.microbatch_size} of {batch} images at once, {why}" if run.microbatch_size < batch else ""
    return f"activations are {'recomputed' if recompute else 'kept'}{split}"


def refuse_to_go_astray(run: TrainingRun) -> None:
    """Raise AgreedError, on all ranks, after too many steps in a row without a finite loss."""
    in_a_row = int(run.optimiser.skipped_in_a_row)
    if in_a_row >= BAD_STEPS_IN_A_ROW:
        raise AgreedError(
            f"the last {in_a_row} steps up to {run.step} had an infinite or undefined (NaN) loss or gradient and were "
            f"skipped: try a lower --lr, or --max_grad_norm 1; {last_good(run)}"
        )


def refuse_lost_weights(run: TrainingRun) -> None:
    """Raise AgreedError, on all ranks, if the weights are no numbers any more: that is no checkpoint to go on from."""
    if not run.is_finite():
        raise AgreedError(
            f"at step {run.step} the weights are infinite or undefined (NaN): try a lower --lr, or --max_grad_norm 1; "
            f"{last_good(run)}"
        )


def last_good(run: TrainingRun) -> str:
    run.writer.wait()
    if run.saved_at is None:
        return "there is no checkpoint yet"
    name = checkpoints.model_name(run.saved_at)
    return f"the last good checkpoint is {storage.join(run.settings.savedir, name)}"

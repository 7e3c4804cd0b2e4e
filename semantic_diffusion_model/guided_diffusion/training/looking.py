"""What is told of a step: its row of the log, and of a checkpoint its validation and preview; made up for after a kill.

A checkpoint is saved before it is looked at, and its state knows the row: so a run that was killed in between tells of
it when it goes on, as if nothing had been.
"""

from collections.abc import Mapping

import numpy as np

from guided_diffusion.runs import storage
from guided_diffusion.runs.world import AgreedError
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.training.preview import draw_preview, write_preview
from guided_diffusion.training.run import TrainingRun
from guided_diffusion.training.run_log import RunLog, SilentLog
from guided_diffusion.training.validation import validate


def tell(
    run: TrainingRun, log: RunLog | SilentLog, stop: StopRequest, row: Mapping[str, float], checkpoint: bool
) -> None:
    """Write the `row` of this step; of a checkpoint of the schedule with its validation, and draw its preview."""
    log.row({**row, **(validate_averages(run, log, stop) if checkpoint else {})})
    if checkpoint and run.settings.preview_steps:
        preview_averages(run, log, stop)


def what_is_owed(run: TrainingRun, log: RunLog | SilentLog) -> tuple[bool, bool]:
    """Whether the row, and the preview, of the checkpoint in savedir that `run` goes on from are missing there; the
    same on all ranks."""
    return run.world.broadcast_object(run.world.fail_together(_look_for, run, log))


def _look_for(run: TrainingRun, log: RunLog | SilentLog) -> tuple[bool, bool]:
    if not run.world.is_main or run.saved_row is None or run.saved_at is None:
        return False, False
    drawn = run.on_schedule and run.settings.preview_steps > 0
    return not log.has_row(run.step), drawn and not storage.exists(_preview_path(run))


def make_up(run: TrainingRun, log: RunLog | SilentLog, stop: StopRequest, row: bool, preview: bool) -> None:
    """Tell what `what_is_owed` found missing, before the next step."""
    if row:
        log.say(f"step {run.step} was saved, but the run ended before it was told of, which is made up for")
        log.row({**run.saved_row, **(validate_averages(run, log, stop) if run.on_schedule else {}), "step": run.step})
    if preview:
        preview_averages(run, log, stop)
    if row or preview:
        log.publish()


def validate_averages(run: TrainingRun, log: RunLog | SilentLog, stop: StopRequest) -> dict[str, float]:
    """The validation loss of the averaged weights, by column name; nothing without validation images, or, with a
    warning, where it fails: the checkpoint is good all the same."""
    if run.validation is None:
        return {}
    try:
        return validate(run, run.validation, stop.alive)
    except AgreedError as error:
        log.say(f"warning: step {run.step} is not validated: {error}")
        return {}


def preview_averages(run: TrainingRun, log: RunLog | SilentLog, stop: StopRequest) -> None:
    """Draw some images with the averaged weights, and write them beside the checkpoint; a warning where that fails."""
    try:
        grid = draw_preview(run, run.validation or run.examples, stop.alive)
        run.world.fail_together(_write_preview, run, log, grid)
    except AgreedError as error:
        log.say(f"warning: step {run.step} has no preview: {error}")


def _write_preview(run: TrainingRun, log: RunLog | SilentLog, grid: np.ndarray) -> None:
    if run.world.is_main:
        write_preview(_preview_path(run), grid)
        log.image("preview", grid, run.step)


def _preview_path(run: TrainingRun) -> str:
    return storage.join(run.settings.savedir, f"preview_{run.step:06d}.png")

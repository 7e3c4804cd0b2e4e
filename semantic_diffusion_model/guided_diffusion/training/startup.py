"""Before the first step of a training: settings, data and paths are checked, the pictures decoded."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from command import UserError
from config import Settings, Width, settle_prediction
from guided_diffusion.data.batches import worker_count
from guided_diffusion.data.datasets import find_pairs, has_split
from guided_diffusion.data.description import refuse_deformed_labels, with_description
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.from_settings import build_diffusion
from guided_diffusion.process.diffusion import GaussianDiffusion
from guided_diffusion.process.predictions import LEAST_ALPHA
from guided_diffusion.process.random_streams import digest_of
from guided_diffusion.runs.checkpoints import read_checkpoint
from guided_diffusion.runs.node import keep_freed_memory
from guided_diffusion.runs.world import World
from guided_diffusion.training import resuming, starting
from guided_diffusion.training.memory import fits_in_memory
from schema import check_settings


@dataclass(frozen=True)
class Prepared:
    """What a training begins with: its settings, with what a checkpoint decides; the checkpoint to go on from, if there
    is one; the images; and what is to be told in the log."""

    settings: Settings
    start: resuming.Start | None
    examples: Examples
    validation: Examples | None
    notes: Sequence[str] = ()


def check_and_read(settings: Settings, given: set[str], world: World) -> Prepared:
    """Everything that can be wrong with data and paths is found here, before the first step. Raises UserError."""
    if world.device.type == "cpu":
        keep_freed_memory()
    settings, given = with_description(settings, given)
    warn = (lambda text: print(text, file=sys.stderr, flush=True)) if world.is_main else (lambda _: None)
    start, notes = resuming.find_starting_point(settings, given, warn), []
    if settings.resume_checkpoint:  # then the network is that of the checkpoint, at the start and whenever it goes on
        if start:
            settings = resuming.take_network_settings(settings, given, start)
        else:
            settings, notes = _start_from(settings, given)
    settings = settle_prediction(settings, given)
    refuse_unlearnable(build_diffusion(settings))  # what else is wrong with the process is told here
    if settings.timestep_respacing:
        told = f"warning: with --timestep_respacing {settings.timestep_respacing} only these timesteps are learned"
        warn(f"{told}: sample with the same flag")
    settings.check_network()
    if start is None:
        settings.check_attention()
    pairs = find_pairs(settings, ["training"], warn=warn)
    refuse_deformed_labels(pairs, settings, "train on")
    examples = Examples(pairs, settings)
    validation = None
    if has_split(settings, "validation"):
        whole = replace(settings, random_crop=False)  # which is how they are validated on
        validation = Examples(find_pairs(settings, ["validation"], warn=warn), whole)
        validation.check()
    _hold_or_check(examples, settings, world)
    return Prepared(settings, start, examples, validation, notes)


def _hold_or_check(examples: Examples, settings: Settings, world: World) -> None:
    """Decode all pictures, and keep them where memory allows. Raises UserError, with all that cannot be decoded."""
    workers = worker_count(settings, world)
    fits = False
    with contextlib.suppress(UserError):  # of the first picture, which is decoded for its size: not of that one alone
        fits = not settings.random_crop and fits_in_memory(examples, world, workers)
    if fits:
        examples.hold(shared=workers > 0)
    else:
        examples.check()


def _start_from(settings: Settings, given: set[str]) -> tuple[Settings, list[str]]:
    checkpoint = read_checkpoint(settings.resume_checkpoint)
    taken = starting.take_settings(settings, given, checkpoint)
    refuse_without_effect(taken)
    told = starting.taken_settings(taken, settings), starting.other_target(taken, checkpoint)
    return taken, [text for text in told if text]


def what_was_found(start: resuming.Start | None, examples: Examples, validation: Examples | None) -> dict[str, object]:
    """What must be the same on all ranks, each of which has looked for itself."""

    def named(examples: Examples | None) -> str:
        return f"{len(examples)}, {digest_of(pair.stem for pair in examples.pairs)}" if examples else "none"

    return {
        "the step to go on from": start.step if start else "none",
        "the training images": named(examples),
        "the validation images": named(validation),
    }


def refuse_unlearnable(diffusion: GaussianDiffusion) -> None:
    """Raise UserError for a process whose last timestep holds nothing of the image, and whose noise is predicted: the
    image cannot be told from it."""
    if diffusion.prediction_type == "epsilon" and diffusion.alphas_cumprod[-1] < LEAST_ALPHA**2:
        raise UserError(
            f"diffusion_steps {diffusion.full_num_timesteps}: this schedule ends in pure noise, from which a network "
            "that predicts the noise learns nothing: take more steps, or --prediction_type v_prediction"
        )


def without_effect(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings that were changed and that nothing would come of, each with the reason."""
    variance = ("vb_weight", "rescale_learned_sigmas")
    widths_alone = all(isinstance(rate, Width) for rate in settings.ema_rates())
    for names, idle, why in (
        (("snr_gamma", "snr_floor"), settings.loss_weighting == "none", "without --loss_weighting min_snr"),
        (("loss_weighting", *variance), settings.use_kl, "with --use_kl True, which trains on the bound alone"),
        (variance, not settings.learn_sigma and not settings.use_kl, "with --learn_sigma False"),
        (("drop_rate", "no_instance"), not settings.class_cond, "with --class_cond False"),
        (("lr_schedule",), not settings.lr_anneal_steps, "with --lr_anneal_steps 0"),
        (("ema_warmup",), widths_alone, f"on the widths of --ema_rate {settings.ema_rate}"),
    ):
        yield from ((name, why) for name in names if idle and getattr(settings, name) != getattr(Settings, name))


def check_training_settings(settings: Settings) -> None:
    """Raise UserError for a value that training cannot work with."""
    check_settings(settings)
    settings.ema_rates()
    refuse_without_effect(settings)


def refuse_without_effect(settings: Settings) -> None:
    """Raise UserError for settings that were changed and that nothing would come of."""
    idle = [f"--{name} {getattr(settings, name)} has no effect {why}" for name, why in without_effect(settings)]
    if idle:
        raise UserError("; ".join(idle))

"""What a sampling job makes: which images, from which label maps, by which sampler, and what is noted of each."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from command import UserError
from config import Settings
from guided_diffusion.data.datasets import Pair, find_pairs, has_split, raise_problems
from guided_diffusion.data.description import mark_of
from guided_diffusion.process.diffusion import make_betas
from guided_diffusion.process.random_streams import seed_of
from guided_diffusion.process.timesteps import FIRST_SIGNAL, LAST_NOISE, few_timesteps, space_timesteps
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import Checkpoint, model_settings
from guided_diffusion.sampling.results import Row, wrong_name

# Below this many steps a solver of higher order is the default.
FEW_STEPS = 100
FEW_STEPS_SAMPLER, FEW_STEPS_SPACING = "unipc", "logsnr"
# These work in the log-SNR, and can go astray where few steps are uneven in it.
HIGHER_ORDER = ("dpmpp_2m", "dpmpp_2m_sde", "unipc")


@dataclass(frozen=True)
class Item:
    """One image to make: its place in the job, its name, its label map, and how often that was used before."""

    index: int
    stem: str
    pair: Pair
    round: int


@dataclass(frozen=True)
class Schedule:
    """A sampler and the timesteps it visits (ascending); `spacing` and `ends` say how those were chosen."""

    sampler: str
    timesteps: tuple[int, ...]
    spacing: str
    ends: str

    @property
    def doubt(self) -> str | None:
        """What is to be warned of, if the sampler does not suit the timesteps."""
        uneven = self.spacing.startswith(("even", "published"))
        if self.sampler not in HIGHER_ORDER or not uneven or len(self.timesteps) >= FEW_STEPS:
            return None
        steps = len(self.timesteps)
        return (
            f"warning: {self.sampler} goes astray in few even steps of t: leave --spacing out, or, instead of "
            f"--timestep_respacing, give --num_steps {steps}; ddim and ddpm suit even steps"
        )


def plan_items(settings: Settings, warn: Callable[[str], object] = lambda _: None) -> list[Item]:
    """Each label map once, in the order of splits, then further rounds, until num_samples. Raises UserError.

    `warn` is told of what is passed over.
    """
    splits = ["training", "validation"] if settings.inference_on_train else ["validation"]
    pairs = find_pairs(settings, _present(settings, splits), with_images=False, warn=warn)
    if not pairs:
        raise UserError(f"datadir {settings.datadir} has no label maps to sample for ({' or '.join(splits)})")
    if not settings.deterministic_test:
        order = np.random.default_rng(seed_of(settings.seed, "order of sampling")).permutation(len(pairs))
        pairs = [pairs[place] for place in order]
    count = len(pairs) if settings.all or settings.num_samples == 0 else settings.num_samples
    mark, names = mark_of(settings), {pair.stem for pair in pairs}
    marks = [_longer_mark(mark, turn, names) for turn in range(-(-count // len(pairs)))]
    items = [_item(index, pairs, marks) for index in range(count)]
    unfit = [f"{item.pair.label_path}: {item.stem} {what}" for item in items if (what := wrong_name(item.stem))]
    raise_problems(f"datadir {settings.datadir}: images cannot have the names of these label maps:", unfit)
    return items


def _present(settings: Settings, splits: Sequence[str]) -> list[str]:
    if not settings.datadir or not storage.is_folder(settings.datadir):
        return list(splits)  # find_pairs says what is wrong
    return [split for split in splits if has_split(settings, split)] or list(splits)


def _longer_mark(mark: str, turn: int, names: Collection[str]) -> str:
    """`mark`, with as many more underscores as it takes that no label map has the name of an image of this round.

    Each round has one of its own, whatever the others need: names stay when more rounds are asked for.
    """
    while any(f"{name}{mark}r{turn}" in names for name in names):
        mark += "_"
    return mark


def _item(index: int, pairs: Sequence[Pair], marks: Sequence[str]) -> Item:
    turn, place = divmod(index, len(pairs))
    pair = pairs[place]
    return Item(index, f"{pair.stem}{marks[turn]}r{turn}" if turn else pair.stem, pair, turn)


def choose_schedule(settings: Settings) -> Schedule:
    """The sampler and its timesteps: of sampler, use_ddim, num_steps, spacing, timestep_respacing. Raises UserError."""
    if settings.num_steps and settings.timestep_respacing:
        raise UserError("num_steps and timestep_respacing both choose the timesteps: give one of them")
    if settings.spacing != "auto" and not settings.num_steps:
        raise UserError(f"spacing {settings.spacing} belongs to num_steps, which is not given")
    if settings.use_ddim and settings.sampler not in ("auto", "ddim"):
        raise UserError(f"use_ddim and --sampler {settings.sampler} disagree: give one of them")
    few = 0 < settings.num_steps < FEW_STEPS
    sampler = settings.sampler
    if sampler == "auto":
        sampler = "ddim" if settings.use_ddim else FEW_STEPS_SAMPLER if few else "ddpm"
    if settings.eta and sampler != "ddim":
        raise UserError(f"eta belongs to the sampler ddim, not to {sampler}")
    if settings.num_steps:
        spacing = settings.spacing
        if spacing == "auto":
            spacing = FEW_STEPS_SPACING if few or sampler in HIGHER_ORDER else "even"
        alphas_cumprod = np.cumprod(1 - make_betas(settings.noise_schedule, settings.diffusion_steps))
        timesteps = few_timesteps(alphas_cumprod, settings.num_steps, spacing)
        ends = "" if spacing == "even" else f"{FIRST_SIGNAL:g} {LAST_NOISE:g}"
    else:
        timesteps = space_timesteps(settings.diffusion_steps, settings.timestep_respacing)
        spacing, ends = f"published {settings.timestep_respacing}".strip(), ""
    return Schedule(sampler, tuple(timesteps), spacing, ends)


def refuse_unlearned(schedule: Schedule, settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise UserError for timesteps that the network was not trained at, with a respacing."""
    respacing = checkpoint.timestep_respacing
    if respacing and not set(schedule.timesteps) <= {*space_timesteps(settings.diffusion_steps, respacing)}:
        raise UserError(
            f"{checkpoint.path} was trained with --timestep_respacing {respacing} and knows these timesteps alone: "
            "sample with the same flag, without --num_steps"
        )


def refuse_guidance_without_labels(settings: Settings) -> None:
    """Raise UserError for guidance of an unconditional network, which sees no label map to be guided to."""
    if settings.s != 1 and not settings.class_cond:
        raise UserError(f"--s {settings.s:g} guides images towards their label maps, and this network sees none")


def row_of(
    settings: Settings,
    schedule: Schedule,
    precision: str,
    checkpoint: Checkpoint,
    device: str,
    item: Item,
    label_sha256: str,
) -> Row:
    """The row of `item` in the manifest: all that decides its pixels."""
    # Heads and the process leave no trace in the tensors: without settings in the file, flags decide them.
    about = model_settings(settings)
    # Manifests from before these settings existed say nothing of them.
    if settings.prediction_type != "v_prediction":  # predict_xstart says it
        del about["prediction_type"]
    for name, former in (("patch_size", 1), ("image_channels", 3)):
        if about[name] == former:
            del about[name]
    network = json.dumps([settings.dataset_mode, about], sort_keys=True)
    return Row(
        stem=item.stem,
        label_map=item.pair.label_path if settings.class_cond else "",
        label_sha256=label_sha256 if settings.class_cond else "",
        index=item.index,
        round=item.round,
        seed=settings.seed,
        sampler=schedule.sampler,
        steps=len(schedule.timesteps),
        spacing=schedule.spacing,
        spacing_ends=schedule.ends,
        eta=float(settings.eta),
        guidance_scale=float(settings.s),
        clip_denoised=settings.clip_denoised,
        blank_outside=settings.blank_outside,
        img_size=settings.img_size,
        precision=precision,
        device=device,
        checkpoint=checkpoint.path,
        checkpoint_sha256=checkpoint.sha256,
        network=hashlib.sha256(network.encode()).hexdigest()[:16],
    )

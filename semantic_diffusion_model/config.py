"""All settings as one, and what is worked out from them; each stands, with its meaning, in `setting_groups`.

The settings that decide what the network is and what its output means (`MODEL_SETTINGS`) travel inside the checkpoint.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from command import UserError
from schema import shown
from setting_groups import (
    DataSettings,
    DiffusionSettings,
    LossSettings,
    NetworkSettings,
    RunSettings,
    SamplingSettings,
    TrainingDataSettings,
    TrainingSettings,
)

CHANNEL_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
NORM_GROUPS = 32
MOST_CHANNELS = 2**13
MOST_NUMBERS = 100  # in a comma list
NARROWEST, WIDEST = 0.01, 0.25  # of an average; a uniform one over the whole training has 0.29


@dataclass
class Settings(
    RunSettings,
    SamplingSettings,
    TrainingSettings,
    TrainingDataSettings,
    LossSettings,
    NetworkSettings,
    DiffusionSettings,
    DataSettings,
):
    """All settings. Methods give those that need reading in the form the code works with."""

    def multipliers(self) -> tuple[float, ...]:
        """Channel multiplier of each level, finest first. Raises UserError."""
        if self.channel_mult:
            return parse_numbers("channel_mult", self.channel_mult)
        return CHANNEL_MULTIPLIERS.get(self.grid_size()) or derive_multipliers(self.grid_size())

    def grid_size(self) -> int:
        """Size in pixels of the finest feature maps: of the image, but for patches."""
        return self.img_size // self.patch_size

    def attention_factors(self) -> tuple[int, ...]:
        """Down-sampling factors that get attention: the grid's size over each size in pixels. Raises UserError."""
        sizes, finest = attention_sizes(self.attention_resolutions), self.grid_size()
        wrong = [size for size in sizes if size <= 0 or finest % size]
        if wrong:
            raise UserError(f"attention_resolutions: {self._grid_in_words()} cannot be divided by {wrong[0]}")
        return tuple(finest // size for size in sizes)

    def attended_sizes(self) -> list[int]:
        """Sizes in pixels of the levels that have attention (the middle block has it always)."""
        named = set(attention_sizes(self.attention_resolutions))
        return [size for size in self.level_sizes() if size in named]

    def level_sizes(self) -> list[int]:
        """Sizes in pixels of the feature maps, finest first."""
        return [self.grid_size() >> level for level in range(len(self.multipliers()))]

    def _grid_in_words(self) -> str:
        return f"img_size {self.img_size}" + (f" / patch_size {self.patch_size}" if self.patch_size > 1 else "")

    def check_attention(self) -> None:
        """Raise UserError if attention_resolutions names sizes, but none of a level: the published code ignores it."""
        if attention_sizes(self.attention_resolutions) and not self.attended_sizes():
            levels = ", ".join(map(str, self.level_sizes()))
            raise UserError(
                f"attention_resolutions {self.attention_resolutions}: at {self._grid_in_words()} no level has one of "
                f"these sizes; name some of {levels}, or say none"
            )

    def ema_rates(self) -> tuple[float, ...]:
        """The rates, and the `Width`s, of the averages. Raises UserError."""
        parse_numbers("ema_rate", self.ema_rate.replace("w", ""))  # a list of numbers at all, and not too long
        words = [word.strip() for word in self.ema_rate.strip("()[] ").split(",") if word.strip()]
        rates = tuple(map(_average, words))
        if not all(rate is not None and 0 <= rate < 1 for rate in rates):
            raise UserError(
                f"ema_rate: {self.ema_rate} must be numbers from 0 up to, but not including, 1, or widths from "
                f"w{NARROWEST} to w{WIDEST}"
            )
        if len({(type(rate), rate) for rate in rates}) < len(rates):
            raise UserError(f"ema_rate: {self.ema_rate} has one of them twice")
        return rates

    def condition_channels(self) -> int | None:
        """Channels of the condition: one per class, one more for instance edges; None without a condition."""
        return (self.num_classes + (not self.no_instance)) if self.class_cond else None

    def check_network(self) -> None:
        """Raise UserError if no network can be built from these settings."""
        if self.img_size % self.patch_size:
            raise UserError(f"img_size {self.img_size} is no multiple of patch_size {self.patch_size}")
        multipliers = self.multipliers()
        halvings = len(multipliers) - 1
        if not all(0 < multiplier * self.num_channels <= MOST_CHANNELS for multiplier in multipliers):
            raise UserError(f"channel_mult {self.channel_mult} x num_channels: must be from 1 to {MOST_CHANNELS}")
        if self.grid_size() % 2**halvings:
            raise UserError(
                f"{self._grid_in_words()} cannot be halved {halvings} times, as the {len(multipliers)} levels of "
                f"channel_mult need: make it a multiple of {self.patch_size * 2**halvings}"
            )
        for multiplier in multipliers:
            channels = multiplier * self.num_channels
            if channels != int(channels) or channels <= 0 or int(channels) % NORM_GROUPS:
                raise UserError(
                    f"channel_mult {multiplier:g} x num_channels {self.num_channels} = {channels:g} channels, which "
                    f"the {NORM_GROUPS} groups of the normalisation do not divide"
                )
        for factor in self.attention_factors():
            upsample = self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample
            self._check_heads(factor, multipliers, (self.num_heads, upsample))
        self._check_heads(2**halvings, multipliers, (self.num_heads,))  # the middle block
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout {self.dropout} must be at least 0 and below 1")

    def _check_heads(self, factor: int, multipliers: tuple[float, ...], counts: tuple[int, ...]) -> None:
        level = factor.bit_length() - 1
        if 2**level != factor or level >= len(multipliers):
            return  # no level has this size: the published code ignores it too
        channels = int(multipliers[level] * self.num_channels)
        per_head = self.num_head_channels
        if per_head == -1:
            for heads in counts:
                if heads < 1 or channels % heads:
                    raise UserError(f"num_heads {heads} does not divide the {channels} channels at factor {factor}")
        elif per_head < 1 or channels % per_head:
            raise UserError(f"num_head_channels {per_head} does not divide the {channels} channels at factor {factor}")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def names(*groups: type) -> tuple[str, ...]:
    return tuple(field.name for group in groups for field in dataclasses.fields(group))


class Width(float):
    """The width of a power-function average: its spread as a share of the training so far; spelled w0.1."""

    def __str__(self) -> str:
        return f"w{float(self)}"


def usual_average(rates: Sequence[float]) -> int:
    """Which average is validated, drawn and sampled with: the first that is no width, or else the first."""
    return next((index for index, rate in enumerate(rates) if not isinstance(rate, Width)), 0)


def parse_width(word: str) -> Width | None:
    """The width that is spelled `word`, or None if it is none, or out of range."""
    found = re.fullmatch(r"w(\d*\.\d+)", word)
    return Width(found[1]) if found and NARROWEST <= float(found[1]) <= WIDEST else None


def _average(word: str) -> float | None:
    return parse_width(word) if word.startswith("w") else parse_numbers("ema_rate", word)[0]


# What the network is and what its output means: carried by the checkpoint, so that sampling needs no such flags.
MODEL_SETTINGS = (
    "img_size",
    "num_classes",
    "class_names",
    "no_instance",
    *(name for name in names(NetworkSettings) if name not in ("dropout", "use_checkpoint")),
    "diffusion_steps",
    "noise_schedule",
    "learn_sigma",
    "predict_xstart",
    "prediction_type",
    "rescale_timesteps",
)


def with_prediction_type(known: Mapping[str, Any]) -> dict[str, Any]:
    """`known` settings, to which older ones that say predict_xstart alone add what it means."""
    if "predict_xstart" not in known:
        return dict(known)
    return {"prediction_type": "sample" if known["predict_xstart"] else "epsilon", **known}


def settle_prediction(settings: Settings, given: Collection[str] = ()) -> Settings:
    """`settings` in which predict_xstart and prediction_type say the same, whichever was set.

    Raises UserError where they contradict each other; `given` names the flags of the command line.
    """
    kind, clean = settings.prediction_type, settings.predict_xstart
    if clean and kind == "epsilon" and "prediction_type" not in given:
        kind = "sample"
    if clean != (kind == "sample") and (clean or "predict_xstart" in given):
        raise UserError(f"predict_xstart {clean} and prediction_type {kind} contradict each other: give one of them")
    return dataclasses.replace(settings, prediction_type=kind, predict_xstart=kind == "sample")


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """The numbers of a comma list; whole ones as int. Raises UserError."""
    try:
        numbers = [float(part) for part in str(text).strip("()[] ").split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > MOST_NUMBERS or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name}: {shown(text)} is not a comma list of numbers")
    return tuple(int(number) if number == int(number) else number for number in numbers)


def attention_sizes(text: str) -> tuple[int, ...]:
    """The sizes that attention_resolutions names; none for the word none. Raises UserError."""
    if text.strip().lower() == "none":
        return ()
    sizes = parse_numbers("attention_resolutions", text)
    if not all(isinstance(size, int) for size in sizes):
        raise UserError(f"attention_resolutions: {shown(text)} are sizes in pixels: whole numbers")
    return sizes


def derive_multipliers(img_size: int) -> tuple[float, ...]:
    """A channel_mult for a size without a preset: that of the next smaller preset, as far as the size can be halved."""
    preset = CHANNEL_MULTIPLIERS[max((size for size in CHANNEL_MULTIPLIERS if size <= img_size), default=64)]
    halvings = (img_size & -img_size).bit_length() - 1
    # Below 8 x 8 pixels a level costs parameters and sees nothing new.
    while len(preset) > 1 and (len(preset) - 1 > halvings or img_size >> (len(preset) - 1) < 8):
        preset = preset[:-1]
    return preset

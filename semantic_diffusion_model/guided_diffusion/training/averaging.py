"""A power-function average of a training that is over, made of those that it saved."""

import dataclasses
import os

import torch

from command import UserError
from config import Settings, parse_width
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import WEIGHTS_NAME, plain_state_dict, read_checkpoint, write_torch
from guided_diffusion.training.ema import combination
from guided_diffusion.training.reporting import few_steps
from progress import next_step

FAR_OFF = 0.2  # of the profile; the weights differ by much less


def write_average(savedir: str, save_as: str, width: float, step: int) -> None:
    """Combine the power-function averages in `savedir` into that of `width` at update `step` (0: the last).

    Raises UserError where they are missing, broken, or of several networks, or if `save_as` is there already.
    """
    if storage.exists(save_as):
        raise UserError(f"{save_as} is there already: give another --save_as")
    if WEIGHTS_NAME.fullmatch(os.path.basename(save_as)):
        raise UserError(f"{save_as} has the name of what a training saves, and would be taken for it: give another")
    if not storage.is_folder(os.path.dirname(save_as) or "."):
        raise UserError(f"{save_as} cannot be written: its folder is not there")
    found = saved_averages(savedir)
    last = max((updates for _, updates in found), default=0)
    step = step or last
    usable = {key: name for key, name in found.items() if key[1] <= step}
    if len({one for one, _ in usable}) < 2 or step > last:
        raise UserError(
            f"{savedir} holds {len(usable)} power-function averages up to update {step}, the last at {last}: needed "
            "are two widths, as --ema_rate 0.9999,w0.05,w0.1 keeps them"
        )
    if step not in {updates for _, updates in usable}:
        raise UserError(f"{savedir} has no power-function average of update {step}")
    factors, rest = combination(list(usable), width, step)
    if rest > FAR_OFF:
        raise UserError(
            f"the {len(usable)} averages in {savedir} come no nearer to width {width} than {rest:.0%} (rms): take a "
            "width nearer to theirs; a training that saves more often (--save_interval) leaves more to combine"
        )
    print(f"{len(usable)} averages of {savedir} make that of width {width} at update {step}, but for {rest:.2%} (rms)")
    total: dict[str, torch.Tensor] = {}
    for factor, name in zip(factors, usable.values(), strict=True):
        checkpoint = read_checkpoint(storage.join(savedir, name))
        if total and {k: v.shape for k, v in total.items()} != {k: v.shape for k, v in checkpoint.state_dict.items()}:
            raise UserError(f"{name} in {savedir} is of another network than the averages before it")
        for key, value in checkpoint.state_dict.items():
            total[key] = total.get(key, 0) + factor * value.double()
    of_training = {"drop_rate": checkpoint.drop_rate or 0.0, "timestep_respacing": checkpoint.timestep_respacing}
    settings = dataclasses.replace(Settings(), **checkpoint.settings, **of_training)
    write_torch(os.path.dirname(save_as) or ".", os.path.basename(save_as), plain_state_dict(total, settings))
    print(f"written: {save_as}")
    how = "--resume_checkpoint", save_as, "--results_dir", "./results", *few_steps(settings), "--all", True
    print(next_step("semantic_diffusion_model/image_sample.py", "--datadir", "AUGMENTED", *how))


def saved_averages(savedir: str) -> dict[tuple[float, int], str]:
    """(width, update) of each power-function average in `savedir`, and its file. Raises UserError."""
    if not storage.is_folder(savedir):
        raise UserError(f"savedir {savedir} is not a folder")
    found = {}
    for match in filter(None, map(WEIGHTS_NAME.fullmatch, sorted(storage.list_names(savedir)))):
        width = parse_width(match["rate"] or "")
        if width is not None:
            found[width, int(match["step"])] = match[0]
    return found

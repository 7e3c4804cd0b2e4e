"""Sums of what is logged, gathered on the device without waiting for it, read once per row of the log."""

from collections.abc import Sequence
from typing import Any

import torch

from guided_diffusion.runs.world import World

QUARTILES = 4


class StepStatistics:
    """Means, since the last row, of the loss terms (in all and by quartile of t) and of the gradient norm.

    The means are over timesteps drawn uniformly: where they are drawn otherwise, a sample counts with its loss weight,
    so that runs compare whichever schedule_sampler they have. Everything is one float64 vector on the device, so that
    all ranks are summed with one all-reduce. Values that are not finite (of steps that were skipped) are left out.
    """

    def __init__(self, terms: Sequence[str], num_timesteps: int, device: torch.device):
        self.terms = tuple(terms)
        self.num_timesteps = num_timesteps
        # Rows: the terms, then the gradient norm; per row the sums and the weights of the quartiles.
        self.sums = torch.zeros(len(self.terms) + 1, 2, QUARTILES, dtype=torch.float64, device=device)
        self.quartiles = torch.arange(QUARTILES, device=device)

    @property
    def columns(self) -> list[str]:
        """The columns that `read` may give, in the published order."""
        names = ["grad_norm"]
        for term in self.terms:
            names += [term, *(f"{term}_q{quartile}" for quartile in range(QUARTILES))]
        return names

    @torch.no_grad()
    def add_losses(self, losses: dict[str, torch.Tensor], t: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the loss terms [N] of samples at timesteps `t` [N], drawn with the loss weights 1 / (T p_t) [N]."""
        member = ((t * QUARTILES // self.num_timesteps)[:, None] == self.quartiles) * weights.double()[:, None]
        values = torch.stack([losses[term].detach().double() for term in self.terms])
        finite = values.isfinite()
        self.sums[:-1, 0] += torch.where(finite, values, 0) @ member
        self.sums[:-1, 1] += finite.double() @ member

    @torch.no_grad()
    def add_gradient_norm(self, norm: torch.Tensor) -> None:
        """Add the norm of a step's gradient; to be called on one rank."""
        finite = norm.isfinite()
        self.sums[-1, 0, 0] += torch.where(finite, norm, 0)
        self.sums[-1, 1, 0] += finite

    def read(self, world: World) -> dict[str, float]:
        """The means over all ranks, by column name; then start anew. A column without a value is left out.

        This waits for the device, and for the other ranks.
        """
        sums, counts = world.all_reduce(self.sums.clone()).cpu().unbind(1)
        self.sums.zero_()
        row: dict[str, float] = {}
        for term, term_sums, term_counts in zip((*self.terms, "grad_norm"), sums, counts, strict=True):
            if term_counts.sum() > 0:
                row[term] = float(term_sums.sum() / term_counts.sum())
            if term != "grad_norm":
                for quartile in range(QUARTILES):
                    if term_counts[quartile] > 0:
                        row[f"{term}_q{quartile}"] = float(term_sums[quartile] / term_counts[quartile])
        return row

    def state(self, world: World) -> torch.Tensor:
        """The sums over all ranks so far, to be saved."""
        return world.all_reduce(self.sums.clone()).cpu()

    def load(self, state: Any, world: World) -> None:
        """Go on from saved sums: rank 0 carries what all ranks had."""
        if world.is_main:
            self.sums.copy_(state)

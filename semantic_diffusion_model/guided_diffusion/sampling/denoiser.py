"""One function from (x_t, t) to the clean image: the network, the process, the condition and guidance together.

Samplers see nothing else, so that samplers and networks never meet.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, Prediction
from guided_diffusion.sampling.graphs import Graphed


def null_condition(network: UNetModel, images: int, height: int, width: int, device: torch.device) -> Condition:
    """The condition of `images` label maps that were dropped: all zeros. It keeps its tables."""
    null = Condition.from_labels(
        np.zeros((images, height, width), dtype=np.int64),
        network.num_classes,
        dropped=np.ones(images, dtype=bool),
        factors=network.factors,
        mode=network.modulation,
        training=False,
        patch_size=network.patch_size,
    )
    return null.to(device).remember_tables()


class Guided:
    """The network's output for (x, timesteps) with one condition, guided.

    s: guidance scale (Ho & Salimans 2022, arXiv 2207.12598): the predicted noise becomes eps_null + s (eps - eps_null),
    where eps_null is predicted for an all-zero label map. x_0 or v in place of eps give the same: at one x_t each is an
    affine function of the others. The encoder sees no label, so it runs once for both; s = 1 costs nothing.
    make_null: as `null_condition` for this network; one that remembers serves all batches of a job.
    """

    def __init__(
        self,
        network: UNetModel,
        condition: Condition | None,
        s: float,
        make_null: Callable[..., Condition] | None = None,
    ):
        self.network = network
        self.condition = condition.remember_tables() if condition is not None else None
        self.s = s
        self.make_null = make_null or partial(null_condition, network)
        self._null: Condition | None = None

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """[N, out_channels, H, W] float32 for x [N, C, H, W] and the network's timesteps [N]."""
        encoded = self.network.encode(x, timesteps)
        output = self.network.decode(encoded, self.condition).float()
        if self.s == 1.0 or self.condition is None:
            return output
        null = self.network.decode(encoded, self._null_condition(x)).float()
        channels = x.shape[1]  # the image is guided; the variance is that of the labelled branch
        eps = torch.lerp(null[:, :channels], output[:, :channels], self.s)
        return torch.cat([eps, output[:, channels:]], dim=1)

    def _null_condition(self, x: torch.Tensor) -> Condition:
        if self._null is None:
            self._null = self.make_null(len(x), *x.shape[2:], device=x.device)
        return self._null


class Denoiser:
    """Predicts x_0, and mean and variance of x_{t-1}, for a batch with one condition, guided with scale s.

    For sampling: no gradients, and all calls have x of the same shape.
    """

    def __init__(
        self,
        network: UNetModel,
        diffusion: GaussianDiffusion,
        condition: Condition | None,
        s: float = 1.0,
        clip_denoised: bool = True,
        make_null: Callable[..., Condition] | None = None,
    ):
        self.diffusion = diffusion
        self.clip_denoised = clip_denoised
        self.guided = Guided(network, condition, s, make_null)
        self.evaluate = Graphed(self.guided)

    def respaced(self, timesteps: list[int]) -> "Denoiser":
        """The same denoiser for a process that visits only `timesteps` (ascending)."""
        guided = self.guided
        diffusion = self.diffusion.respaced(timesteps)
        return Denoiser(guided.network, diffusion, guided.condition, guided.s, self.clip_denoised, guided.make_null)

    def __call__(self, x: torch.Tensor, index: int) -> Prediction:
        """Prediction for x [N, C, H, W] float32 at the index-th visited timestep."""
        t = torch.full((len(x),), index, dtype=torch.int64, device=x.device)
        output = self.evaluate(x, self.diffusion.model_timesteps(t))
        return self.diffusion.interpret(output, x, t, self.clip_denoised)

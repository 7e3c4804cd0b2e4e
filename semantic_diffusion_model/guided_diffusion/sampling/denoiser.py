"""One function from (x_t, t) to the clean image: the network, the process, the condition and guidance together.

Samplers see nothing else, so that samplers and networks never meet.
"""

import torch

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, Prediction
from guided_diffusion.sampling.graphs import Graphed


class Guided:
    """The network's output for (x, timesteps) with one condition, guided.

    s: guidance scale (Ho & Salimans 2022, arXiv 2207.12598): the predicted noise becomes eps_null + s (eps - eps_null),
    where eps_null is predicted for an all-zero label map. x_0 or v in place of eps give the same: at one x_t each is an
    affine function of the others. The encoder sees no label, so it runs once for both; s = 1 costs nothing.
    """

    def __init__(self, network: UNetModel, condition: Condition | None, s: float):
        self.network = network
        self.condition = condition.remember_tables() if condition is not None else None
        self.s = s
        self._null: Condition | None = None

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """[N, out_channels, H, W] float32 for x [N, 3, H, W] and the network's timesteps [N]."""
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
            labels = torch.zeros(len(x), *x.shape[2:], dtype=torch.int64)
            dropped = torch.ones(len(x), dtype=torch.bool)
            null = Condition.from_labels(
                labels,
                self.network.num_classes,
                dropped=dropped,
                factors=self.network.factors,
                mode=self.network.modulation,
                training=False,
            )
            self._null = null.to(x.device).remember_tables()
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
    ):
        self.diffusion = diffusion
        self.clip_denoised = clip_denoised
        self.guided = Guided(network, condition, s)
        self.evaluate = Graphed(self.guided)

    def respaced(self, timesteps: list[int]) -> "Denoiser":
        """The same denoiser for a process that visits only `timesteps` (ascending)."""
        guided = self.guided
        diffusion = self.diffusion.respaced(timesteps)
        return Denoiser(guided.network, diffusion, guided.condition, guided.s, self.clip_denoised)

    def __call__(self, x: torch.Tensor, index: int) -> Prediction:
        """Prediction for x [N, 3, H, W] float32 at the index-th visited timestep."""
        t = torch.full((len(x),), index, dtype=torch.int64, device=x.device)
        output = self.evaluate(x, self.diffusion.model_timesteps(t))
        return self.diffusion.interpret(output, x, t, self.clip_denoised)

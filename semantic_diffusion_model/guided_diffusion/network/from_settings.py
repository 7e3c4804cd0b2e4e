"""The network and the process that a set of settings describes."""

import dataclasses

from config import Settings, names, settle_prediction
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, make_betas
from guided_diffusion.process.timesteps import space_timesteps
from setting_groups import LossSettings


def build_network(settings: Settings) -> UNetModel:
    """The U-Net, freshly initialised (it outputs zeros). Raises UserError if the settings contradict each other."""
    settings.check_network()
    network = UNetModel(
        image_size=settings.img_size,
        in_channels=settings.image_channels,
        patch_size=settings.patch_size,
        model_channels=settings.num_channels,
        out_channels=settings.image_channels * (2 if settings.learn_sigma else 1),
        num_res_blocks=settings.num_res_blocks,
        attention_resolutions=settings.attention_factors(),
        dropout=settings.dropout,
        channel_mult=settings.multipliers(),
        num_classes=settings.condition_channels(),
        use_checkpoint=settings.use_checkpoint is True,
        num_heads=settings.num_heads,
        num_head_channels=settings.num_head_channels,
        num_heads_upsample=settings.num_heads_upsample,
        use_scale_shift_norm=settings.use_scale_shift_norm,
        resblock_updown=settings.resblock_updown,
        use_new_attention_order=settings.use_new_attention_order,
    )
    network.modulation = settings.modulation
    return network


def build_diffusion(settings: Settings, timestep_respacing: str | None = None) -> GaussianDiffusion:
    """The process, respaced as `timestep_respacing` says (default: the settings' own). Raises UserError."""
    spacing = settings.timestep_respacing if timestep_respacing is None else timestep_respacing
    return GaussianDiffusion(
        make_betas(settings.noise_schedule, settings.diffusion_steps),
        timesteps=space_timesteps(settings.diffusion_steps, spacing),
        learn_sigma=settings.learn_sigma,
        prediction_type=settle_prediction(settings).prediction_type,
        use_kl=settings.use_kl,
        rescale_timesteps=settings.rescale_timesteps,
        rescale_learned_sigmas=settings.rescale_learned_sigmas,
        vb_weight=settings.vb_weight,
        loss_weighting=settings.loss_weighting,
        snr_gamma=settings.snr_gamma,
        snr_floor=settings.snr_floor,
    )


def without_loss(settings: Settings) -> Settings:
    """`settings` with the defaults of the loss: whatever it is, sampling has nothing to do with it."""
    usual = Settings()
    return dataclasses.replace(settings, **{name: getattr(usual, name) for name in names(LossSettings)})

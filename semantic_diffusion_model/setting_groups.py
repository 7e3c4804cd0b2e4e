"""Every setting of training and sampling: its name, default and meaning, once, in groups by what they are about.

`image_train.py` and `image_sample.py` take the same flags; each uses those of its concern (`help_groups`). The range of
a number stands in its type, and holds wherever the setting comes from: a flag, a checkpoint, a JSON file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from annotated_types import Interval
from tyro.constructors import PrimitiveConstructorSpec

from command import PathText, YesNo, parse_yes_no


def parse_yes_no_auto(words: Sequence[str]) -> bool | str:
    """As `parse_yes_no`, or the word auto."""
    if words and words[0].lower() == "auto":
        return "auto"
    try:
        return parse_yes_no(words)
    except ValueError as error:
        raise ValueError(f"{error}, nor auto") from None


YesNoAuto = Annotated[
    bool | Literal["auto"],
    PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[True|False|auto]",
        instance_from_str=parse_yes_no_auto,
        is_instance=lambda value: isinstance(value, bool) or value == "auto",
        str_from_instance=lambda value: [str(value)],
    ),
]


# Whole numbers that mean something: the upper ends are beyond all use, and keep a slip from filling the memory.
Count = Annotated[int, Interval(ge=0, le=10**9)]
Positive = Annotated[int, Interval(ge=1, le=10**9)]
Few = Annotated[int, Interval(ge=1, le=100)]
Heads = Annotated[int, Interval(ge=-1, le=2**16)]
Share = Annotated[float, Interval(ge=0, le=1)]
NotNegative = Annotated[float, Interval(ge=0)]


@dataclass
class DataSettings:
    datadir: PathText = ""
    """Folder with images/ and sector_annotations/, each with training/ and validation/ (local, gs:// or az://)."""
    dataset_mode: Literal["camus", "cityscapes", "ade20k", "celeba", "coco", "folder"] = "camus"
    """Layout of datadir; `folder` takes any images/ beside labels/, with or without split folders."""
    img_size: Annotated[int, Interval(ge=1, le=2**13)] = 256
    """Height and width of the images, in pixels."""
    num_classes: Annotated[int, Interval(ge=1, le=256)] = 5
    """Classes of the label maps: values 0 .. num_classes - 1. Where datadir has a dataset.json, as many as it says."""
    class_names: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """Their names, as the dataset.json of datadir says: no flag. Empty for CAMUS, and where nothing says."""
    no_instance: YesNo = True
    """False adds the edges between instances as one more channel of the condition."""


@dataclass
class DiffusionSettings:
    diffusion_steps: Annotated[int, Interval(ge=1, le=10**5)] = 1000
    """Length T of the diffusion process."""
    noise_schedule: Literal["cosine", "linear"] = "cosine"
    """How the noise grows over the T steps."""
    learn_sigma: YesNo = True
    """The network also predicts the variance of a step; False: the fixed, larger variance beta."""
    timestep_respacing: str = ""
    """Published spacing of fewer steps: a count, counts per section (10,10,20), or ddimN. Empty: all T. In a training,
    nothing but these timesteps are learned: the checkpoint says so, and sampling refuses others."""
    predict_xstart: YesNo = False
    """The network predicts the clean image instead of the noise; the same as --prediction_type sample."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean image x_0, or v = alpha epsilon - sigma x_0."""
    rescale_timesteps: YesNo = False
    """Hand the network timesteps scaled to 0 .. 1000, whatever T."""


@dataclass
class NetworkSettings:
    num_channels: Annotated[int, Interval(ge=1, le=2**13)] = 256
    """Channels of the first level."""
    channel_mult: str | None = None
    """Channels of each level, as multiples of num_channels: a comma list, fractions allowed. None: by img_size (over
    patch_size)."""
    image_channels: Literal[1, 3] = 3
    """Channels of an image: 3, of which a grey picture has three alike, as published; 1 for grey pictures alone."""
    patch_size: Annotated[int, Interval(ge=1, le=16)] = 1
    """Blocks of so many pixels squared are one pixel of the network, all their values and labels its channels."""
    num_res_blocks: Few = 2
    """Residual blocks per level."""
    attention_resolutions: str = "32,16,8"
    """Sizes of the feature maps, in pixels, that get self-attention: a comma list, or none (the middle block has it in
    any case)."""
    num_heads: Heads = 1
    """Attention heads, where num_head_channels is -1."""
    num_heads_upsample: Heads = -1
    """Attention heads of the decoder; -1: as num_heads."""
    num_head_channels: Heads = 64
    """Channels of an attention head; overrules num_heads unless -1."""
    resblock_updown: YesNo = True
    """Residual blocks change the resolution; False: a convolution does."""
    use_scale_shift_norm: YesNo = True
    """The timestep scales and shifts the normalised features; False: it is added to them."""
    use_new_attention_order: YesNo = True
    """Split queries, keys and values first and heads second; False: the older order."""
    dropout: Share = 0.0
    """Probability of dropping a feature in training."""
    use_checkpoint: YesNoAuto = "auto"
    """Recompute activations in the backward pass: less memory, a third more time, the same result. auto: if needed."""
    class_cond: YesNo = True
    """Condition on the label maps; False: an unconditional model."""


@dataclass
class LossSettings:
    use_kl: YesNo = False
    """Train on the variational bound alone."""
    vb_weight: NotNegative = 1e-3
    """Weight of the variational bound beside the mean squared error (published code 0.001; SDM and ADM papers 1)."""
    loss_weighting: Literal["none", "min_snr"] = "none"
    """none: all timesteps alike; min_snr: the squared error of x_0 counts min(max(SNR, snr_floor), snr_gamma) times."""
    snr_gamma: NotNegative = 5.0
    """Largest weight of min_snr, at timesteps of little noise."""
    snr_floor: NotNegative = 0.0
    """Smallest weight of min_snr, at timesteps of much noise; not for epsilon."""
    schedule_sampler: Literal["uniform", "loss-second-moment", "logit-normal", "log-snr"] = "uniform"
    """Which timesteps are trained: all alike; in proportion to the root mean square of their past loss, weighed so that
    the mean loss stays the same; the middle ones more often (logit-normal, Esser et al. 2024); or those where the
    log-SNR is that of normally distributed noise levels (log-snr, Karras et al. 2022). 5 % of the last two are drawn
    alike."""
    rescale_learned_sigmas: YesNo = False
    """Scale the variational bound by T / 1000, as improved DDPM does for its importance sampling."""


@dataclass
class TrainingDataSettings:
    savedir: PathText = "./output"
    """Folder that training writes checkpoints, logs and previews into."""
    random_crop: YesNo = False
    """Train on random squares of 0.8 to 1 times the image."""
    random_flip: YesNo = False
    """Train on images flipped left to right half of the time."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = 10
    """Loader processes per rank; capped at the cores there are for each rank. 0: load in the main process."""


@dataclass
class TrainingSettings:
    lr: NotNegative = 1e-4
    """Learning rate at the start; it falls to 0 over lr_anneal_steps, as lr_schedule says."""
    lr_schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls: on a line, or on half a cosine."""
    lr_warmup_steps: Count = 0
    """Steps over which the learning rate rises on a line to what it would be."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    lr_anneal_steps: Count = 1000
    """Steps to train; 0: without end, at a constant learning rate."""
    batch_size_train: Annotated[int, Interval(ge=1, le=2**20)] = 1
    """Images per step and rank."""
    microbatch: Annotated[int, Interval(ge=-1, le=2**20)] = -1
    """Images per forward pass: gradients of the parts are averaged. -1: the whole batch, or what fits into memory."""
    ema_rate: str = "0.9999"
    """Decay rates of the averaged weights: a comma list. w0.05,w0.1 among them are widths of power-function averages,
    from which image_average.py makes one of any width after the training."""
    ema_warmup: YesNo = True
    """Average with min(rate, (1 + k) / (10 + k)) at update k, so that short runs have a useful average too: 0.9999 is
    reached at update 89,990 (0.99982 at 50,000)."""
    drop_rate: Share = 0.0
    """Share of the samples that are trained without their label, which guidance (--s) needs; 0.2 is usual."""
    fp16_scale_growth: NotNegative = 1e-3
    """Growth per step of the fp16 loss scale, in powers of two."""
    max_grad_norm: NotNegative = 0.0
    """Clip the norm of the gradient to this; 0: no clipping."""
    log_interval: Positive = 10
    """Steps between lines of the log."""
    save_interval: Positive = 2000
    """Steps between checkpoints, validations and previews; counted from step 0 of the run, not of the process."""
    keep_checkpoints: Count = 0
    """Keep the newest K checkpoints; 0: all."""
    distributed_data_parallel: YesNo = True
    """Average gradients by DistributedDataParallel; False: by one plain all-reduce after the backward pass."""
    deterministic_train: YesNo = False
    """Take the training images in order instead of shuffled."""
    preview_steps: Count = 20
    """Sampling steps of the preview images; 0: no previews."""
    stop_grace: NotNegative = 100.0
    """Seconds without a sign of life (part of a batch, of a validation or of a preview) after which a run that was
    asked to stop (SIGTERM, SIGUSR1, Ctrl-C) gives up its step and exits without a checkpoint, with code 1."""


@dataclass
class SamplingSettings:
    s: float = 1.0
    """Guidance scale: 1 none; larger follows the label more closely (needs a model trained with drop_rate > 0)."""
    use_ddim: YesNo = False
    """Sample with DDIM; the same as --sampler ddim."""
    sampler: Literal["auto", "ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc"] = "auto"
    """auto: ddim with --use_ddim; else unipc with --num_steps below 100; else ddpm, as published."""
    num_steps: Count = 0
    """Sampling steps, the last timestep included; 0: as timestep_respacing says."""
    spacing: Literal["auto", "even", "logsnr", "karras"] = "auto"
    """Where num_steps lie: in equal steps of t, of the log-SNR, or of a root of the noise level (Karras et al. 2022).
    auto: logsnr below 100 steps and for samplers of higher order (dpmpp_2m, dpmpp_2m_sde, unipc), else even."""
    eta: Share = 0.0
    """Fresh noise in DDIM: 0 none, 1 as much as DDPM."""
    inference_on_train: YesNo = True
    """Sample for the label maps of training, then validation; False: validation alone."""
    deterministic_test: YesNo = True
    """Take the label maps in order; False: in an order shuffled by the seed."""
    batch_size_test: Annotated[int, Interval(ge=0, le=2**20)] = 0
    """Images per batch and rank; 0: as many as memory allows on a GPU, 64 at most, a modest number on a CPU."""
    clip_denoised: YesNo = True
    """Clip the predicted clean image to [-1, 1] at each step."""
    blank_outside: YesNo = False
    """Make what lies outside the sector black, as it is in frames of CAMUS: networks leave a haze of some grey levels
    there. Only where the description of datadir has a sector."""
    num_samples: Count = 1000
    """Images to make: each label map once, then further rounds. 0: one for each label map."""
    all: YesNo = False
    """One image for each label map; num_samples is then ignored."""
    results_dir: PathText = "./results"
    """Folder that sampling writes into."""


@dataclass
class RunSettings:
    resume_checkpoint: PathText = ""
    """Training: weights to start from; a run whose state (optNNNNNN.pt) lies beside them is gone on with. Sampling: the
    checkpoint to sample from (or a folder: its newest EMA)."""
    overwrite: YesNo = False
    """Sampling: replace results that were made with other settings; False: refuse to mix them. Training: delete weights
    in savedir whose state is lost; False: refuse to write over them."""
    seed: Annotated[int, Interval(ge=-(2**63), lt=2**64)] = 0
    """Everything that is drawn depends on this and on what it is drawn for, not on ranks or batches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU per rank where there are GPUs, else the CPU."""
    use_fp16: YesNo = True
    """Half precision where the device has it; weights and averages stay float32."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16, else fp16, on GPUs that have them if use_fp16; fp32 on CPUs."""
    modulation: Literal["auto", "table", "dense"] = "auto"
    """How SPADE computes scale and shift: once per distinct label neighbourhood, or at each pixel. Same values."""
    is_train: YesNo = False
    """Said by the published commands: True for image_train.py (implied there), False for image_sample.py."""

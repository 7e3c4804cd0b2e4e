"""What a sampling job tells: what it will do, how far it is, and a contact sheet of what it made."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from config import Settings
from guided_diffusion.data import pictures
from guided_diffusion.data.arrays import read_file
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import Checkpoint
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.plan import Schedule
from guided_diffusion.sampling.results import PREVIEW, Results
from picture_files import decode_image
from progress import ROOT, Progress, next_step


def announce(
    settings: Settings,
    checkpoint: Checkpoint,
    schedule: Schedule,
    precision: str,
    total: int,
    to_make: int,
    world: World,
) -> None:
    """Print what the job will do: with which weights, in how many steps, `to_make` of `total` images."""
    source = f"the label maps of {settings.datadir}" if settings.class_cond else "no label map"
    print(f"sampling {to_make} images for {source}, into {settings.results_dir}", flush=True)
    if checkpoint.note:
        print(checkpoint.note)
    weights = _KINDS[checkpoint.kind]
    origin = _SOURCES[checkpoint.source]
    if checkpoint.source == "shapes":
        told = {name: getattr(settings, name) for name in _NOT_IN_SHAPES}
        origin += " and, what they do not show, from the flags: " + ", ".join(f"{k} {v}" for k, v in told.items())
    print(f"{checkpoint.path}: {weights}; settings of the network from {origin}")
    if settings.s != 1 and checkpoint.drop_rate == 0:
        print("warning: guidance needs a model that was trained with drop_rate > 0; this one was trained with 0")
    if not settings.class_cond:
        print("warning: the network is unconditional: its images belong to no label map, and none is written")
    elif settings.num_classes != Settings.num_classes:
        names = f": {', '.join(settings.class_names)}" if settings.class_names else ""
        print(f"the network knows {settings.num_classes} classes{names}")
    there = total - to_make
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''} on {world.device.type}"
    if schedule.doubt:
        print(schedule.doubt)
    steps = f"{schedule.sampler}, {len(schedule.timesteps)} steps, {precision}"
    print(f"{total} images, {there} of them there already; {steps}, {ranks}")


_KINDS = {
    "ema": "averaged weights",
    "model": "plain weights (the averaged ones usually draw better)",
    "": "weights",
}
_SOURCES = {
    "file": "the file itself",
    "json": "train_test_config.json beside it, checked against the tensors",
    "shapes": "the shapes of its tensors",
}
_NOT_IN_SHAPES = (
    *("img_size", "num_head_channels", "noise_schedule", "diffusion_steps", "prediction_type", "rescale_timesteps"),
    "use_new_attention_order",
)


@contextmanager
def progress(results: Results, total: int, there: int, world: World) -> Iterator[None]:
    """One bar over the images of all ranks, counted in the parts of the manifest, so that no rank waits for it."""
    if not world.is_main:
        yield
        return
    with Progress("sampling", total, "image", start=there) as bar:
        ended = threading.Event()

        def update() -> None:
            bar.reach(there + results.count_parts())

        watcher = threading.Thread(target=_repeat, args=(update, ended), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            update()


def tell_end(settings: Settings, total: int, made: int) -> None:
    """Print what was written, and what usually follows."""
    print(f"{total} images in {settings.results_dir} ({made} of them made now)")
    if settings.dataset_mode == "camus" and settings.class_cond:
        print(segmentation_step(settings.results_dir))


def segmentation_step(results_dir: str) -> str:
    """The line that names the preparation of what is in `results_dir` for the segmentation."""
    views = next(filter(os.path.isdir, ("data/views", os.path.relpath(ROOT / "data/views"))), "VIEWS")
    save = os.path.join(os.path.dirname(views) or "data", "segmentation")
    folders = "--testing_data_folder", views, "--sdm_results_folder", results_dir, "--save_folder", save
    return next_step("data_preparation/prepare_inference4segmentation.py", *folders)


def _repeat(function: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(1.0):
        function()


def _read_picture(path: str) -> np.ndarray:
    return decode_image(read_file(path), path, colour=True)


def write_preview(results: Results, palette: pictures.Palette, stems: Sequence[str]) -> None:
    """The contact sheet: label, synthetic, overlay and real of some images, one under the other, with a caption."""
    columns, captions = [], ("label", "synthetic", "overlay", "real")
    if "labels" not in results.kinds:
        columns = [pictures.stack([_read_picture(results.path("samples", stem))]) for stem in stems]
        stems, captions = (), ("synthetic",)
    for stem in stems:
        label, synthetic = (_read_picture(results.path(kind, stem)) for kind in ("labels", "samples"))
        path = results.path("images", stem)
        real = _read_picture(path) if storage.exists(path) else None
        panels = pictures.colour(label, palette), synthetic, pictures.overlay(synthetic, label, palette), real
        columns.append(pictures.stack(panels))
    sheet = pictures.contact_sheet(columns, captions=captions)
    results.write_picture(PREVIEW, sheet)

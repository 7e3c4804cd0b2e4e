"""The sampling job: each rank makes images batch by batch, as it is free for them, and waits for others at the end."""

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from command import UserError
from config import Settings
from guided_diffusion.data import pictures
from guided_diffusion.data.arrays import load_edges, load_image, load_label
from guided_diffusion.data.description import outside_of, palette_of, with_description
from guided_diffusion.data.loading import make_condition
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.from_settings import build_diffusion, build_network, without_loss
from guided_diffusion.network.precision import autocast, choose_precision, round_weights
from guided_diffusion.process.random_streams import digest_of, normal, stream
from guided_diffusion.runs.checkpoints import Checkpoint, read_checkpoint
from guided_diffusion.runs.network_settings import merge_settings
from guided_diffusion.runs.node import keep_freed_memory
from guided_diffusion.runs.sole_use import sole_use
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.ahead import Ahead, with_next
from guided_diffusion.sampling.batch_size import BatchSize, piece_size
from guided_diffusion.sampling.carried import carry_along
from guided_diffusion.sampling.denoiser import Denoiser, null_condition
from guided_diffusion.sampling.inputs import check_inputs
from guided_diffusion.sampling.plan import (
    Item,
    Schedule,
    choose_schedule,
    plan_items,
    refuse_guidance_without_labels,
    refuse_unlearned,
    row_of,
)
from guided_diffusion.sampling.reporting import announce, progress, tell_end, write_preview
from guided_diffusion.sampling.results import (
    FOLDERS,
    WITHOUT_LABELS,
    Results,
    Row,
    refuse_sources,
    settle,
)
from guided_diffusion.sampling.samplers import sample
from schema import check_settings
from state_dicts import load_weights

PREVIEW_IMAGES = 16
BATCHES_BEING_WRITTEN = 2
MOST_WRITERS = 4  # five files an image, each waited for until it is on disk: a GPU is faster than one


def run_sampling(settings: Settings, given: set[str], world: World) -> None:
    """Make the images that the settings ask for, and a contact sheet. Raises UserError (the same on all ranks)."""
    world.fail_together(check_settings, settings)
    checkpoint = world.fail_together(_read_checkpoint, settings)
    settings, given = world.fail_together(with_description, settings, given)
    settings = world.fail_together(merge_settings, settings, given, checkpoint)
    schedule = world.fail_together(choose_schedule, settings)
    world.fail_together(refuse_unlearned, schedule, settings, checkpoint)
    world.fail_together(refuse_guidance_without_labels, settings)
    if settings.blank_outside:
        world.fail_together(outside_of, settings)  # refused before anything is made
    precision = world.fail_together(choose_precision, settings, world.device)
    warn = print if world.is_main else (lambda _: None)
    items = world.fail_together(plan_items, settings, warn)
    names = [f"{item.stem}{' with its real image' if item.pair.image_path else ''}" for item in items]
    world.must_agree(
        {
            "the images to make": f"{len(items)}, {digest_of(names)}",
            "the precision": precision,
            "the checkpoint": f"{os.path.basename(checkpoint.path)}, {checkpoint.sha256[:8]}",
        }
    )
    paths = [path for item in items for path in (item.pair.image_path, item.pair.label_path, item.pair.instance_path)]
    world.fail_together(refuse_sources, settings.results_dir, settings.datadir, paths)
    hashes = check_inputs(items, settings, world)
    make_row = partial(row_of, settings, schedule, precision, checkpoint, world.device.type)
    rows = [make_row(item, hashes[item.pair.stem]) for item in items]
    results = Results(settings.results_dir, world.rank, FOLDERS if settings.class_cond else WITHOUT_LABELS)
    # Before the folder is touched: weights that do not fit must not cost finished images.
    job = world.fail_together(Job, settings, schedule, precision, checkpoint, world, results)
    with sole_use(settings.results_dir, "results_dir", world, results.kinds):
        _fill(job, checkpoint, world, items, rows)


def _fill(job: "Job", checkpoint: Checkpoint, world: World, items: Sequence[Item], rows: Sequence[Row]) -> None:
    """Make the images of `items` that the folder of `job` does not hold yet, and complete it."""
    results, settings = job.results, job.settings
    real = {item.stem for item in items if item.pair.image_path is not None}
    missing = set(world.broadcast_object(world.fail_together(_settle_on_main, results, rows, real, settings, world)))
    to_make = [(item, row) for item, row in zip(items, rows, strict=True) if row.stem in missing]
    if world.is_main:
        announce(settings, checkpoint, job.schedule, job.precision, len(items), len(to_make), world)

    with progress(results, len(items), len(items) - len(to_make), world):
        size = piece_size(len(to_make), world.size, job.batch_size.most)
        # A rank that takes its next piece early would leave none for another where there are no more than ranks.
        job.make(world.hand_out(to_make, size), ahead=len(to_make) > size * world.size)
        world.wait_for_all()
    world.fail_together(_refuse_lacking, results, rows, world)
    if world.is_main:
        made = results.made().values()
        label_maps = [row["label_map"] for row in made]
        carry_along(settings.datadir, settings.results_dir, label_maps, described=settings.dataset_mode == "camus")
        results.merge(made)  # last of what others read: from here on the job counts as finished
        write_preview(
            results, job.palette, [row.stem for row in rows[:: max(1, len(rows) // PREVIEW_IMAGES)]][:PREVIEW_IMAGES]
        )
        tell_end(settings, len(items), len(to_make))


class Job:
    """What the batches of one rank share: the network, and the writing beside it.

    Raises UserError for weights that do not fit the network.
    """

    def __init__(
        self,
        settings: Settings,
        schedule: Schedule,
        precision: str,
        checkpoint: Checkpoint,
        world: World,
        results: Results,
    ):
        self.settings = settings
        self.schedule = schedule
        self.precision = precision
        self.device = world.device
        self.cores = world.cores
        self.results = results
        self.palette = palette_of(settings)
        self.outside = outside_of(settings) if settings.blank_outside else None
        self.batch_size = BatchSize(settings.batch_size_test, world.device, settings.img_size)
        if world.device.type == "cpu":
            keep_freed_memory()
        network = build_network(settings)
        load_weights(network, checkpoint.state_dict, checkpoint.path)
        network = network.to(world.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.network = round_weights(network, precision)
        self.diffusion = build_diffusion(without_loss(settings), timestep_respacing="")
        self.null_condition = functools.cache(partial(null_condition, self.network))
        self.ahead = Ahead(self.prepare)

    def make(self, pieces: Iterable[Sequence[tuple[Item, Row]]], ahead: bool = True) -> None:
        """Sample `pieces` batch by batch: meanwhile the batch before is written, and the next one prepared; the first
        of another piece only if it may be taken `ahead`."""
        writing: list[list[Future]] = []
        with self.ahead, ThreadPoolExecutor(min(MOST_WRITERS, self.cores)) as writers:
            for piece, following in with_next(pieces, (), ahead):
                for batch, drawn in self._batches(piece, following):
                    writing.append([writers.submit(self.write, *one) for one in zip(batch, *drawn, strict=True)])
                    while len(writing) > BATCHES_BEING_WRITTEN:
                        _wait(writing.pop(0))
            for batch_of_them in writing:
                _wait(batch_of_them)

    def _batches(
        self, piece: Sequence[tuple[Item, Row]], following: Sequence[tuple[Item, Row]]
    ) -> Iterator[tuple[Sequence[tuple[Item, Row]], tuple]]:
        """The batches of `piece`, with what was drawn for each; `following` is the piece after it."""
        start = 0
        while start < len(piece):
            batch = piece[start : start + self.batch_size.value]
            end = start + len(batch)
            drawn = self.batch_size.attempt(partial(self._sample_and_look_ahead, piece[end:] or following), batch)
            if drawn is None:
                continue  # too large for the memory: the batch size has shrunk
            start = end
            yield batch, drawn

    def _sample_and_look_ahead(
        self, coming: Sequence[tuple[Item, Row]], batch: Sequence[tuple[Item, Row]]
    ) -> tuple[np.ndarray, np.ndarray]:
        items = [item for item, _ in batch]
        prepared = self.ahead.get(items)
        self.ahead.begin([item for item, _ in coming[: self.batch_size.value]])
        return self.sample(items, *prepared)

    def prepare(self, items: Sequence[Item]) -> tuple[np.ndarray, Condition | None]:
        """Label maps [N, H, W] uint8 of `items`, and their condition, on the host."""
        settings = self.settings
        labels = [load_label(item.pair, settings) for item in items]
        edges = [None] * len(items)
        if settings.class_cond and not settings.no_instance:
            known = zip(items, labels, strict=True)
            edges = [torch.from_numpy(load_edges(item.pair, settings, labels=label)) for item, label in known]
        condition = make_condition([torch.from_numpy(label) for label in labels], edges, settings, training=False)
        return np.stack(labels), condition

    def sample(
        self, items: Sequence[Item], labels: np.ndarray, condition: Condition | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Synthetic images [N, H, W, channels] uint8 and label maps [N, H, W] uint8 of `items`, as `prepare` gave them.

        The noise of an image depends on the seed, its stem and its round alone. Sums are rounded in an order that
        depends on the batch: another batch gives the same image to a grey level, not to the bit.
        """
        settings = self.settings
        generators = [stream(self.device, settings.seed, "sample", item.pair.stem, item.round) for item in items]
        noise = normal(generators, (settings.image_channels, *labels.shape[1:]))
        condition = None if condition is None else condition.to(self.device)
        denoiser = Denoiser(
            self.network, self.diffusion, condition, settings.s, settings.clip_denoised, self.null_condition
        )
        # The search for the fastest convolutions takes long for each size: not for one that does not come again.
        torch.backends.cudnn.benchmark = self.batch_size.is_settled_at(len(items))
        with autocast(self.precision, self.device):
            x = sample(self.schedule.sampler, denoiser, noise, list(self.schedule.timesteps), generators, settings.eta)
        if not bool(torch.isfinite(x).all()):
            raise UserError("the network predicts inf or NaN: the checkpoint is broken, or --precision fp32 is needed")
        images = pictures.to_uint8(x.float().cpu().numpy())
        if self.outside is not None:
            images[labels == self.outside] = 0
        return images, labels

    def write(self, made: tuple[Item, Row], synthetic: np.ndarray, label: np.ndarray) -> None:
        """Write the five pictures of an image (of an unconditional network: its sample alone), then its row."""
        item, row = made
        real = None
        grey = self.settings.dataset_mode == "camus" or self.settings.image_channels == 1
        if item.pair.image_path is not None:
            real = load_image(item.pair, self.settings).transpose(1, 2, 0)
            grey = grey or bool((real == real[..., :1]).all())
        if grey:
            synthetic = pictures.to_grey(synthetic)
            real = None if real is None else pictures.to_grey(real)
        self.results.write_png("samples", item.stem, synthetic)
        if self.settings.class_cond:
            self._write_beside(item.stem, synthetic, label, real)
        self.results.add([row])

    def _write_beside(self, stem: str, synthetic: np.ndarray, label: np.ndarray, real: np.ndarray | None) -> None:
        if real is not None:
            self.results.write_png("images", stem, real)
        self.results.write_png("labels", stem, label)
        self.results.write_png("labels_visible", stem, pictures.visible(label, self.settings.num_classes))
        panels = (
            real,
            synthetic,
            *(draw(synthetic, label, self.palette) for draw in (pictures.overlay, pictures.outlines)),
        )
        self.results.write_png("combined", stem, pictures.stack(panels))


def _wait(writing: Sequence[Future]) -> None:
    for one in writing:
        one.result()


def _read_checkpoint(settings: Settings) -> Checkpoint:
    if not settings.resume_checkpoint:
        raise UserError("--resume_checkpoint is needed: the file of the weights to sample from, or a training's folder")
    return read_checkpoint(settings.resume_checkpoint)


def _refuse_lacking(results: Results, rows: Sequence[Row], world: World) -> None:
    """Raise UserError if images of `rows` are not there after all: then the folder stays unfinished."""
    made = results.made() if world.is_main else {}
    lacking = sum(row.stem not in made for row in rows) if world.is_main else 0
    if lacking:
        raise UserError(
            f"{lacking} of {len(rows)} images are missing from results_dir {results.folder} (do all nodes share it?): "
            "run the same command again"
        )


def _settle_on_main(
    results: Results, rows: Sequence[Row], real: Collection[str], settings: Settings, world: World
) -> list[str] | None:
    return settle(results, rows, settings.overwrite, real) if world.is_main else None

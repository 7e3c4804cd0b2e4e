"""The whole evaluation: what is read, measured, judged and written."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from command import UserError
from evaluation_settings import SETS, EvaluationSettings
from guided_diffusion.evaluation import agreement, diversity, entries, figures, memorisation, report
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.comparison import Pairing, pair_by_label_map
from guided_diffusion.evaluation.distances import ENOUGH_IMAGES, standardised
from guided_diffusion.evaluation.features import Features, read_encoder, read_inception
from guided_diffusion.evaluation.fingerprints import Nearest, fingerprints, with_layouts
from guided_diffusion.evaluation.image_sets import (
    LEAST_IMAGES,
    Frame,
    described,
    find_real,
    find_synthetic,
    read_frame,
    size_of,
)
from guided_diffusion.evaluation.measuring import Measured, measure, measures_of, nearest_by
from guided_diffusion.evaluation.output_folder import (
    PAGE,
    make_room,
    refuse_used,
    subfolders,
    sweep,
    write_figures,
    write_report,
)
from guided_diffusion.runs import storage
from guided_diffusion.runs.sole_use import sole_use
from guided_diffusion.runs.world import AgreedError, World
from guided_diffusion.sampling.reporting import segmentation_step
from progress import Progress


@dataclass(frozen=True)
class Evaluated:
    """What was found of one synthetic set, before anything is written: its measures, its Dice where there are
    predictions, its entry and its figures."""

    measured: Measured
    dice: np.ndarray | None
    entry: entries.Entry
    drawn: Mapping[str, Callable]


@dataclass(frozen=True)
class Inputs:
    """All that was found on disk before the work begins."""

    classes: Classes
    training: list[Frame]
    others: list[Frame]
    sets: dict[str, list[Frame]]
    size: tuple[int, int]
    networks: dict[str, Features]
    predictions: dict[str, list[str | None]]
    real_predictions: list[str | None] | None
    pairing: Pairing | None


@dataclass(frozen=True)
class Real:
    """The real frames as measured: training first; `held_out` are those whose nearest training frame is the yardstick,
    and `barred` the training frames that do not count for each."""

    all: Measured
    training: Measured
    held_out: Measured
    known: Nearest
    barred: np.ndarray | None


def run_evaluation(settings: EvaluationSettings, world: World) -> None:
    """Evaluate what the settings name, and write the report. Raises UserError."""
    if world.size > 1:
        raise AgreedError("image_evaluate.py runs in one process: start it without mpiexec or torchrun")
    inputs = find_inputs(settings, world.device)
    announce(settings, inputs, world)
    with sole_use(settings.output_dir, "output_dir", world, subfolders(inputs.sets)):
        refuse_used(settings)
        real = measure_real(settings, inputs, world.device)
        # All of it, before a former evaluation makes room: pictures that cannot be read must not cost it.
        found = {name: evaluate_set(settings, inputs, real, name) for name in inputs.sets}
        former = make_room(settings.output_dir)
        written = [path for name, one in found.items() for path in write_set(settings, inputs, name, one)]
        if inputs.pairing is not None:
            written = write_comparison(settings, real, inputs, found) + written
        sweep(settings.output_dir, former, written)
    print(f"written: {', '.join(path for path in written if path.endswith(PAGE))}")
    if not settings.compare:
        print(segmentation_step(settings.synthetic_dir))


def find_inputs(settings: EvaluationSettings, device: torch.device) -> Inputs:
    """Raises UserError for whatever can be found wrong without reading every picture."""
    description = described(settings.real_dir, settings.synthetic_dirs().values())
    by_split = find_real(settings.real_dir, description, print)
    training = by_split.pop("training")
    others = [frame for frames in by_split.values() for frame in frames]
    sets = {
        name: find_synthetic(path, description, training + others) for name, path in settings.synthetic_dirs().items()
    }
    pairing = pair_by_label_map(*sets.values()) if settings.compare else None
    if settings.num_samples:
        sets = {name: _some(frames, settings) for name, frames in sets.items()}
    predictions = {
        name: agreement.find_predictions(folder, frames, all_of_them=True)
        for (name, frames), folder in zip(sets.items(), settings.predictions, strict=False)
    }
    real_predictions = None
    if settings.real_predictions:
        real_predictions = agreement.find_predictions(settings.real_predictions, training + others, all_of_them=False)
    networks: dict[str, Features] = {}
    if settings.segmentation_model:
        networks["encoder"] = read_encoder(settings.segmentation_model, device)
    if settings.feature_weights:
        networks["inception"] = read_inception(settings.feature_weights, device)
    classes = Classes(description)
    size = size_of(training[0], classes)
    return Inputs(classes, training, others, sets, size, networks, predictions, real_predictions, pairing)


def _some(frames: list[Frame], settings: EvaluationSettings) -> list[Frame]:
    order = np.random.default_rng([settings.seed, 4]).permutation(len(frames))[: settings.num_samples]
    if len(order) < LEAST_IMAGES:
        raise UserError(f"--num_samples {settings.num_samples}: at least {LEAST_IMAGES} are needed")
    return [frames[i] for i in sorted(order)]


def announce(settings: EvaluationSettings, inputs: Inputs, world: World) -> None:
    """Print what is going to be done."""
    height, width = inputs.size
    told = [f"{len(frames)} synthetic{f' ({name})' if name else ''}" for name, frames in inputs.sets.items()]
    real = f"{len(inputs.training)} real training frames, {len(inputs.others)} held out"
    size = f"{height} x {width} pixels, on {world.device.type}"
    print(f"comparing {', '.join(told)} with {real}, {size}, into {settings.output_dir}", flush=True)
    fewest = min(len(inputs.training + inputs.others), *map(len, inputs.sets.values()))
    if inputs.networks and fewest < ENOUGH_IMAGES:
        print(f"warning: {fewest} images: Frechet distances of fewer than {ENOUGH_IMAGES} are biased upwards")
    for name, flag in (("encoder", "segmentation_model"), ("inception", "feature_weights")):
        if name not in inputs.networks:
            print(f"no --{flag}: distances in its features are not computed")


def measure_real(settings: EvaluationSettings, inputs: Inputs, device: torch.device) -> Real:
    """One pass over the training frames, whose fingerprints are kept, then one over the others."""
    measures = measures_of(inputs.classes, settings.dynamic_range, inputs.networks)
    classes, options = inputs.classes, (inputs.classes, inputs.size, settings.batch_size)
    training = measure(
        inputs.training,
        measures | {"fingerprints": partial(with_layouts, classes=classes)},
        *options,
        "training frames",
    )
    prints = training.tables.pop("fingerprints")
    known = Nearest(prints, training.patients, device)
    others = None
    if inputs.others:
        others = measure(inputs.others, measures | nearest_by(known, classes), *options, "held-out frames")
    everything = training + others if others else training
    few = len(inputs.others) < memorisation.ENOUGH_HELD_OUT
    if others and not (few and len(set(training.patients)) > 1):  # one patient has no others to be compared with
        return Real(everything, training, others, known, None)
    parts = []
    for start in range(0, len(prints), settings.batch_size):
        pictures = [read_frame(frame, classes) for frame in inputs.training[start : start + settings.batch_size]]
        asked = fingerprints(*(np.stack(part) for part in zip(*pictures, strict=True)), classes)
        parts.append(known(asked, training.patients[start : start + settings.batch_size]))
    training.tables["nearest"] = np.concatenate(parts)
    names = np.asarray(training.patients)
    return Real(everything, training, training, known, names[:, None] == names[None])


def evaluate_set(settings: EvaluationSettings, inputs: Inputs, real: Real, name: str) -> Evaluated:
    """Measure and judge one synthetic set. Raises UserError for pictures that cannot be read."""
    classes = inputs.classes
    measures = measures_of(classes, settings.dynamic_range, inputs.networks) | nearest_by(real.known, classes)
    title = f"synthetic frames {name}".strip()
    synthetic = measure(inputs.sets[name], measures, classes, inputs.size, settings.batch_size, title)
    seen = inputs.predictions.get(name)
    dice = None if seen is None else agreement.dice_of(inputs.sets[name], seen, classes)
    entry, judgement = judged(settings, inputs, real, synthetic, dice)
    entry = {"version": 1, "images": counts(inputs, name, settings), **entry}
    drawn = figures.draw(classes, entry, real.all, synthetic, judgement, real.training.frames)
    return Evaluated(synthetic, dice, entry, drawn)


def write_set(settings: EvaluationSettings, inputs: Inputs, name: str, found: Evaluated) -> list[str]:
    """Write the report and the figures of one synthetic set; the paths of the files."""
    folder = storage.join(settings.output_dir, name) if name else settings.output_dir
    written = write_report(folder, report.page(found.entry, inputs.classes), entries.as_json(found.entry))
    written += write_figures(folder, found.drawn)
    print(memorisation.sentence(found.entry["memorisation"]))
    return written


def judged(
    settings: EvaluationSettings, inputs: Inputs, real: Real, synthetic: Measured, dice: np.ndarray | None
) -> tuple[entries.Entry, memorisation.Judgement]:
    """What evaluation.json says of one synthetic set, and the judgement on copies."""
    classes, common = inputs.classes, (settings.bootstrap, settings.seed)
    with Progress("judging", 4, "step") as steps:
        found, curve = entries.differences(classes, real.all, synthetic, *common)
        found["spectrum_curve"] = curve
        steps.advance()
        found["distances"] = {
            name: entries.feature_distances(real.all, synthetic, name, settings.seed)
            if name in inputs.networks
            else None
            for name in ("encoder", "inception")
        }
        steps.advance()
        found["label_agreement"] = None
        if dice is not None:
            seen = inputs.real_predictions
            real_dice = None if seen is None else agreement.dice_of(real.all.frames, seen, classes)
            found["label_agreement"] = entries.agreement(classes, synthetic, dice, real.all, real_dice, *common)
        asked = settings.ssim_pairs, settings.seed
        found["diversity"] = diversity.report(synthetic.frames, real.all.frames, *asked, classes)
        steps.advance()
        found["memorisation"], judgement = judge_copies(real, synthetic)
        steps.advance()
    return found, judgement


def judge_copies(real: Real, synthetic: Measured) -> tuple[entries.Entry, memorisation.Judgement]:
    """The entry `memorisation`, with distances in the encoder's features, in standard deviations of the real frames,
    where there is one."""
    nearest = [measured.tables["nearest"] for measured in (synthetic, real.held_out)]
    entry, judgement = memorisation.report(*nearest, synthetic.frames, real.training.frames, real.held_out.frames)
    entry["features"] = None
    if "encoder" in synthetic.tables:
        sides = real.all, synthetic, real.held_out, real.training
        _, *clouds = standardised(*(measured.tables["encoder"] for measured in sides))
        entry["features"] = memorisation.nearest_in_features(*clouds, real.barred)
    return entry, judgement


def counts(inputs: Inputs, name: str, settings: EvaluationSettings) -> entries.Entry:
    """The entry `images`: how many of what."""
    real, synthetic = inputs.training + inputs.others, inputs.sets[name]
    return {
        "synthetic": len(synthetic),
        "synthetic_patients": len({frame.patient for frame in synthetic}),
        "label_maps": len({frame.label_map for frame in synthetic}),
        "real": len(real),
        "real_patients": len({frame.patient for frame in real}),
        "training": len(inputs.training),
        "held_out": len(inputs.others),
        "height": inputs.size[0],
        "width": inputs.size[1],
        "dynamic_range_db": settings.dynamic_range,
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
        "synthetic_dir": os.path.abspath(settings.synthetic_dirs()[name]),
        "real_dir": os.path.abspath(settings.real_dir),
    }


def write_comparison(
    settings: EvaluationSettings, real: Real, inputs: Inputs, found: Mapping[str, Evaluated]
) -> list[str]:
    """evaluation.json, evaluation.md and a figure of A against B, in output_dir itself; the paths of the files."""
    first, second = found.values()
    dice = None if first.dice is None or second.dice is None else (first.dice, second.dice)
    assert inputs.pairing is not None
    common = settings.bootstrap, settings.seed
    entry = entries.comparison(
        inputs.classes, real.all, (first.measured, second.measured), inputs.pairing, dice, *common
    )
    entry = {"version": 1, "sets": dict(zip(SETS, map(os.path.abspath, settings.compare), strict=True)), **entry}
    page = report.comparison_page(entry, inputs.classes)
    drawn = {"comparison": partial(figures.comparison, classes=inputs.classes, entry=entry)}
    written = write_report(settings.output_dir, page, entries.as_json(entry))
    return written + write_figures(settings.output_dir, drawn)

"""The files that a sampling job reads, looked at before the work: a damaged one would be found after hours."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from command import UserError
from config import Settings
from guided_diffusion.data.arrays import other_aspect, read_channels, read_instances, read_label, target_size
from guided_diffusion.data.datasets import Pair, raise_problems
from guided_diffusion.data.label_maps import check_classes
from guided_diffusion.runs import storage
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.plan import Item

MOST_THREADS = 8


@dataclass
class Found:
    """What the files of a pair are: the SHA-256 of its label map (with its instance map), (width, height) of the label
    map and of what comes of it, and what is wrong."""

    stem: str
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (0, 0)
    problems: list[str] = field(default_factory=list)


def check_inputs(items: Sequence[Item], settings: Settings, world: World) -> dict[str, str]:
    """The SHA-256 of each label map (with its instance map), by stem; every rank reads its share.

    Raises UserError with all problems found: files that cannot be read, classes that the model does not know, pictures
    that do not belong together by their sizes.
    """
    pairs = list({item.pair.stem: item.pair for item in items}.values())
    with ThreadPoolExecutor(min(MOST_THREADS, world.cores)) as pool:
        own = list(pool.map(partial(_look_at, settings=settings), world.share(pairs)))
    found = [one for part in world.gather_objects(own) for one in part]
    message = f"datadir {settings.datadir}: these pictures cannot be sampled for:"
    world.fail_together(raise_problems, message, [problem for one in found for problem in one.problems])
    world.fail_together(_refuse_sizes, found, settings)
    resized = sum(one.size != one.target for one in found)
    if resized and world.is_main:
        width, height = found[0].target
        print(f"{resized} label maps are brought to {height} x {width} pixels (nearest neighbour)")
    return {one.stem: one.sha256 for one in found}


def _look_at(pair: Pair, settings: Settings) -> Found:
    found = Found(pair.stem)

    def shape_of(read: Callable[[], np.ndarray]) -> tuple[int, int] | None:
        try:
            return read().shape[:2]
        except UserError as error:
            found.problems.append(str(error))
            return None

    def read_classes() -> np.ndarray:
        labels = read_label(pair, settings)
        check_classes(labels, settings.num_classes, pair.label_path)
        return labels

    beside, read = {}, [pair.label_path]
    if pair.image_path is not None:
        beside["image"] = shape_of(partial(read_channels, pair, settings, colour=True))
    if pair.instance_path is not None and not settings.no_instance:
        beside["instance map"] = shape_of(partial(read_instances, pair))
        read.append(pair.instance_path)
    own = shape_of(read_classes)
    if own is None:
        return found
    for what, shape in beside.items():
        if shape is not None and (told := other_aspect(pair, own, what, shape, settings)):
            found.problems.append(told)
    found.size, found.target = own[::-1], target_size(*own[::-1], settings)
    found.sha256 = storage.sha256_of(*read)
    return found


def _refuse_sizes(found: Sequence[Found], settings: Settings) -> None:
    """Raise UserError where images would come out at different sizes, as cityscapes, which keeps aspects, can have."""
    examples = {one.target: one.stem for one in reversed(found)}
    if len(examples) > 1:
        told = ", ".join(f"{height} x {width} ({stem})" for (width, height), stem in sorted(examples.items()))
        raise UserError(
            f"datadir {settings.datadir}: the label maps come out at different sizes (height x width): {told}; a job "
            "makes images of one size"
        )

"""Layouts on disk -> images paired with label maps, by name."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from command import UserError
from config import Settings
from guided_diffusion.runs import storage
from picture_files import is_picture, passed_over

MOST_PROBLEMS_TOLD = 20


@dataclass(frozen=True)
class Pair:
    """Files of one name: a label map, its image and its instance map (None where there is none)."""

    stem: str
    split: str
    image_path: str | None
    label_path: str
    instance_path: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files: folders by split ("training", "validation", of CAMUS "testing" too, which is
    evaluated alone), and what ends their names."""

    images: dict[str, str]
    labels: dict[str, str]
    instances: dict[str, str] | None = None
    image_ending: str = ""
    label_ending: str = ""
    instance_ending: str = ""


def _split_folders(pattern: str, training: str, validation: str) -> dict[str, str]:
    return {"training": pattern.format(training), "validation": pattern.format(validation)}


LAYOUTS = {
    "camus": Layout(
        {split: f"images/{split}" for split in ("training", "validation", "testing")},
        {split: f"sector_annotations/{split}" for split in ("training", "validation", "testing")},
    ),
    "ade20k": Layout(
        _split_folders("images/{}", "training", "validation"),
        _split_folders("annotations/{}", "training", "validation"),
    ),
    "celeba": Layout(_split_folders("{}/images", "train", "test"), _split_folders("{}/labels", "train", "test")),
    "cityscapes": Layout(
        _split_folders("leftImg8bit/{}", "train", "val"),
        _split_folders("gtFine/{}", "train", "val"),
        _split_folders("gtFine/{}", "train", "val"),
        "_leftImg8bit",
        "_gtFine_labelIds",
        "_gtFine_instanceIds",
    ),
    # The layout of the SPADE paper's code.
    "coco": Layout(
        _split_folders("{}_img", "train", "val"),
        _split_folders("{}_label", "train", "val"),
        _split_folders("{}_inst", "train", "val"),
    ),
}
LABEL_FOLDERS = ("labels", "annotations", "sector_annotations")
SPLIT_NAMES = {"training": ("training", "train"), "validation": ("validation", "val", "test")}


def find_layout(settings: Settings) -> Layout:
    """The layout of settings.dataset_mode; for `folder`, as the folders in datadir show it. Raises UserError."""
    if settings.dataset_mode != "folder":
        return LAYOUTS[settings.dataset_mode]
    labels = next((name for name in LABEL_FOLDERS if storage.is_folder(storage.join(settings.datadir, name))), None)
    if labels is None:
        raise UserError(f"{settings.datadir} has no folder of label maps ({', '.join(LABEL_FOLDERS)})")

    def by_split(kind: str) -> dict[str, str]:
        root = storage.join(settings.datadir, kind)
        found = {
            split: f"{kind}/{name}"
            for split, names in SPLIT_NAMES.items()
            for name in reversed(names)
            if storage.is_folder(storage.join(root, name))
        }
        return found or {"training": kind}

    splits = by_split(labels)
    has_instances = storage.is_folder(storage.join(settings.datadir, "instances"))
    images = by_split("images")
    return Layout(
        {split: images.get(split, f"images/{split}") for split in splits},
        splits,
        by_split("instances") if has_instances else None,
    )


def has_split(settings: Settings, split: str) -> bool:
    """Whether datadir has a folder of label maps for `split`, with any picture in it."""
    folder = find_layout(settings).labels.get(split)
    path = folder and storage.join(settings.datadir, folder)
    return bool(path) and storage.is_folder(path) and any(map(is_picture, storage.walk_files(path)))


def find_pairs(
    settings: Settings,
    splits: Sequence[str],
    with_images: bool = True,
    warn: Callable[[str], object] = lambda _: None,
) -> list[Pair]:
    """The label maps of `splits` ("training", "validation", in this order), each naturally sorted, with partners.

    `with_images` True: each label map has an image and each image a label map. False: label maps are enough; where an
    image of the same name exists, the pair has it. Raises UserError with all problems found: missing folders, names
    without a partner, names that occur twice. `warn` is told of files that are passed over, as no pictures by name.
    """
    if not settings.datadir:
        raise UserError("--datadir is needed: the folder that holds the images and label maps")
    if not storage.is_folder(settings.datadir):
        raise UserError(f"datadir {settings.datadir} is not a folder")
    layout = find_layout(settings)
    problems: list[str] = []
    pairs: list[Pair] = []
    for split in splits:
        pairs += _pairs_of_split(settings, layout, split, with_images, problems)
        if not layout.label_ending:  # such layouts keep other files beside them
            folders = dict.fromkeys(folder[split] for folder in (layout.images, layout.labels) if split in folder)
            for line in filter(None, (_left_over(storage.join(settings.datadir, folder)) for folder in folders)):
                warn(f"warning: {line}")
    seen: dict[str, Pair] = {}
    for pair in pairs:
        if pair.stem in seen:
            problems.append(f"{pair.label_path}: another file has this name: {seen[pair.stem].label_path}")
        seen[pair.stem] = pair
    raise_problems(f"datadir {settings.datadir} is not as dataset_mode {settings.dataset_mode} has it:", problems)
    return pairs


def _left_over(root: str) -> str | None:
    names = storage.walk_files(root) if storage.is_folder(root) else []
    return passed_over(root, [name for name in names if not is_picture(name)])


def raise_problems(message: str, problems: Sequence[str]) -> None:
    """Raise UserError with `problems`, the first of them if they are many; nothing if there are none."""
    if problems:
        rest = len(problems) - MOST_PROBLEMS_TOLD
        told = [*problems[:MOST_PROBLEMS_TOLD], *([f"and {rest} more"] if rest > 0 else [])]
        raise UserError(message, told)


def _pairs_of_split(
    settings: Settings, layout: Layout, split: str, with_images: bool, problems: list[str]
) -> list[Pair]:
    if split not in layout.labels:
        problems.append(f"no folder for the {split} split")
        return []
    labels = _files(settings, layout.labels[split], layout.label_ending, problems)
    images = _files(settings, layout.images[split], layout.image_ending, problems, required=with_images)
    instances: dict[str, str] = {}
    needs_instances = layout.instances is not None and not settings.no_instance
    if needs_instances and layout.instances is not None:
        instances = _files(settings, layout.instances.get(split, ""), layout.instance_ending, problems)
    if with_images:
        problems += [f"{path}: no label map of this name" for name, path in images.items() if name not in labels]
        problems += [f"{path}: no image of this name" for name, path in labels.items() if name not in images]
    if needs_instances:
        problems += [f"{path}: no instance map of this name" for name, path in labels.items() if name not in instances]
    return [
        Pair(os.path.basename(name), split, images.get(name), labels[name], instances.get(name))
        for name in sorted(labels, key=natural_key)
    ]


def _files(settings: Settings, folder: str, ending: str, problems: list[str], required: bool = True) -> dict[str, str]:
    """Paths of the pictures in a folder, by their path below it without `ending` and suffix."""
    root = storage.join(settings.datadir, folder)
    found: dict[str, str] = {}
    for relative in storage.walk_files(root) if storage.is_folder(root) else ():
        name = os.path.splitext(relative)[0]
        if is_picture(relative) and name.endswith(ending):
            name = name.removesuffix(ending)
            if name in found:
                problems.append(f"{storage.join(root, relative)}: the same name as {found[name]}")
            found[name] = storage.join(root, relative)
    if required and not found:
        hint = ""
        if settings.dataset_mode == "camus" and folder.startswith("sector_annotations"):
            hint = " (data_preparation/augment_camus_labels.py makes sector labels)"
        problems.append(f"{root}: no such folder, or no pictures in it{hint}")
    return found


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which x_2 comes before x_10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]

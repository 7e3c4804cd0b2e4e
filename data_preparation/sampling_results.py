"""What image_sample.py leaves: synthetic images, the label maps that they were drawn for, a manifest.

The label maps are what the diffusion model saw: of CAMUS, five-class sector labels, cut at the cone. The same
maps before the cut stand in the folder of deformed labels that was sampled from.
"""

import sys
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from command import UserError
from dataset_description import Description
from names import ALL_VIEWS, naming_of
from schema import parse_csv
from view_folders import (
    ANNOTATIONS,
    SECTOR_ANNOTATIONS,
    Pair,
    check_labels,
    is_view_folder,
    pair_by_name,
    read_label,
)

SAMPLES, LABELS, MANIFEST = "samples", "labels", "manifest.csv"
UNFINISHED = "manifest.part*.csv"  # what the ranks of a sampling job write until it ends


def find_results(folder: Path) -> list[Path]:
    """`folder` itself if it holds sampling results, otherwise its folders that do. Raises UserError if none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    found = [path for path in candidates if (path / SAMPLES).is_dir() and (path / LABELS).is_dir()]
    for path in found[:1] if found[:1] == [folder] else candidates:
        missing = [kind for kind in (SAMPLES, LABELS) if not (path / kind).is_dir()]
        if len(missing) == 1 and (path / MANIFEST).is_file():
            raise UserError(f"{path} is not whole: {missing[0]}/ is missing (an unconditional network draws no labels)")
    if not found:
        raise UserError(
            f"{folder} holds no sampling results: neither it nor a folder in it has {SAMPLES}/ and {LABELS}/"
        )
    if found[0] != folder:
        return found
    if left := ", ".join(path.name for path in found[1:]):
        told = f"{folder} holds sampling results itself, so those in its folders are passed over: {left}"
        print(f"warning: {told}", file=sys.stderr)
    return found[:1]


def synthetic_pairs(results: list[Path], problems: list[str]) -> list[Pair]:
    """All synthetic images with their label maps; names used twice and missing samples are problems."""
    found: dict[str, Pair] = {}
    for folder in results:
        pairs = pair_by_name(folder / SAMPLES, folder / LABELS, naming_of(folder), problems)
        if not pairs:
            problems.append(f"{folder / SAMPLES} holds no images")
        here = {str(pair.stem): pair for pair in pairs}
        for stem, pair in here.items():
            if stem in found:
                problems.append(f"{pair.image} has the same name as {found[stem].image}: results of two runs?")
            if pair.stem.split == "testing":
                problems.append(f"{pair.image} is synthetic and says testing: test frames must be real")
        problems += check_manifest(folder, here)
        found.update(here)
    return list(found.values())


def read_manifest(folder: Path) -> dict[str, dict[str, str]] | None:
    """Stem -> row of the manifest of the sampling results in `folder`, None without one. Raises UserError."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    rows = parse_csv(path.read_bytes(), str(path), ("stem",))
    if any(not row["stem"] for row in rows):
        raise UserError(f"{path} has rows without a stem")
    return {row["stem"]: row for row in rows}


def check_manifest(folder: Path, samples: Collection[str]) -> list[str]:
    """What is wrong with the stems of the `samples` in `folder`: they must be those of its manifest, if it has one."""
    if any(folder.glob(UNFINISHED)):
        return [f"{folder}: the sampling is not finished; run image_sample.py again, as before, to complete it"]
    listed = read_manifest(folder)
    if listed is None:
        return []
    stems, found = set(listed), set(samples)
    problems = [f"{folder / SAMPLES / stem}.png is missing, but stands in {MANIFEST}" for stem in stems - found]
    problems += [f"{folder / SAMPLES / stem}.png does not stand in {MANIFEST}" for stem in found - stems]
    return sorted(problems)


def find_whole_labels(pairs: list[Pair], augmented: Path | None, problems: list[str]) -> dict[Pair, Path]:
    """The annotation before the cut at the cone of each synthetic pair, in the folder `augmented` or, if that is None,
    beside the sector label that the manifest names. What cannot be found is a problem."""
    folders = named_by_manifests(pairs, problems) if augmented is None else in_folder(pairs, augmented, problems)
    found = {}
    for pair, candidates in folders.items():
        places = [folder / ANNOTATIONS / pair.stem.split / f"{pair.stem.label_map}.png" for folder in candidates]
        found[pair] = next((place for place in places if place.is_file()), None)
        if found[pair] is None:
            problems.append(f"{pair.image}: its label map before the cut at the cone, {places[0]}, is missing")
    return {pair: path for pair, path in found.items() if path}


def in_folder(pairs: list[Pair], augmented: Path, problems: list[str]) -> dict[Pair, list[Path]]:
    """The view folders that may hold the whole label map of each pair; none of them there is a problem."""
    if is_view_folder(augmented):
        return dict.fromkeys(pairs, [augmented])
    folders = {pair: [augmented / f"{view}_augmented" for view in (pair.stem.view, ALL_VIEWS)] for pair in pairs}
    if any(is_view_folder(folder) for both in folders.values() for folder in both):
        return folders
    problems.append(f"--augmented_folder {augmented} is no <view>_augmented, and holds none, of the views sampled")
    return {}


def named_by_manifests(pairs: list[Pair], problems: list[str]) -> dict[Pair, list[Path]]:
    """The view folder of the label map that each pair was drawn for, as the manifest of the pair's results says.

    A manifest is a file that anyone may have written: its path must end as the image's own name tells.
    """
    manifests = {folder: read_manifest(folder) for folder in {pair.image.parents[1] for pair in pairs}}
    problems += [
        f"{folder} has no {MANIFEST}, which says where its label maps lie: give --augmented_folder, or --labels cone"
        for folder, rows in manifests.items()
        if rows is None
    ]
    found, gone = {}, set()
    for pair in pairs:
        row = (manifests[pair.image.parents[1]] or {}).get(str(pair.stem))
        if row is None:
            continue  # said already, here or by check_manifest
        path = Path(row.get("label_map") or "")
        expected = (SECTOR_ANNOTATIONS, pair.stem.split, f"{pair.stem.label_map}.png")
        if path.parts[-3:] != expected:
            problems.append(f"{pair.image}: {MANIFEST} names {path} as its label map, not …/{'/'.join(expected)}")
        elif is_view_folder(path.parents[2]):
            found[pair] = [path.parents[2]]
        else:  # moved since, or named from where the sampling was started
            gone.add((pair.image.parents[1], path.parents[2]))
    problems += [
        f"{folder}: the label maps that its {MANIFEST} names are not in {place}: give --augmented_folder, or "
        "--labels cone"
        for folder, place in sorted(gone)
    ]
    return found


def read_whole_label(path: Path, sector: np.ndarray, sector_path: Path, description: Description) -> np.ndarray:
    """The plain label map in `path`, uint8 in the shape of `sector`, the sector label that it was cut to.

    Raises UserError if it is none, or was not cut to this one.
    """
    whole = read_label(path)
    check_labels(path, whole, description.num_classes)
    if whole.shape != sector.shape:  # the sampler brings label maps to its own size, by the nearest pixel's centre
        whole = cv2.resize(whole, sector.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if not np.array_equal(description.to_conditions(whole, _inside(sector, description)), sector):
        raise UserError(
            f"{path} is another label map than {sector_path}, sampled for: deformed anew since, or by --seed"
        )
    return whole


def _inside(conditions: np.ndarray, description: Description) -> np.ndarray:
    return conditions != description.sector.outside if description.sector else np.ones(conditions.shape, bool)

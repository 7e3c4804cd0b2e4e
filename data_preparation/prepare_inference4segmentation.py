"""Turn sampling results into folders for the segmentation: synthetic images to train on, real ones to test on."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from command import UserError, YesNo, run_command
from dataset_description import Description, camus
from input_files import real_path
from names import ALL_VIEWS, SPLITS
from outputs import new_folders, refuse_to_replace
from parallel import default_workers, for_each
from progress import next_step
from sampling_results import find_results, find_whole_labels, read_whole_label, synthetic_pairs
from schema import check_settings
from view_folders import (
    ANNOTATIONS,
    IMAGES,
    Pair,
    check_labels,
    check_same_size,
    common_description,
    encode_png,
    find_view_folders,
    folders_of,
    is_replaceable,
    list_pairs,
    make_folders,
    metadata_row,
    names_of_set,
    not_real,
    person_of,
    read_image,
    read_label,
    read_metadata,
    write_description,
    write_metadata,
)


@dataclass
class PrepareSettings:
    testing_data_folder: Path
    """Real test frames: the folder with the extracted view folders, or one of these (made by extract_camus_data.py)."""
    sdm_results_folder: Path
    """The results_dir of image_sample.py (with samples/ and labels/), or a folder that holds several of them."""
    save_folder: Path
    """Where <view>/{images,annotations}/<split>/ is made for each view in the results, and all_views."""
    labels: Literal["whole", "cone"] = "whole"
    """Labels of synthetic frames. cone, as published: what was sampled for, cut at the ultrasound cone. whole: the same
    maps before the cut, like the annotations of real frames; they taught better (docs/differences.md)."""
    augmented_folder: Path | None = None
    """Where augment_camus_labels.py made <view>_augmented (or one of these), for whole labels. By default the place
    that the manifest.csv of the results names."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace the view folders (as a whole) if save_folder has them already; otherwise they are an error."""


Tables = dict[str, dict[str, str]]  # rows of metadata.csv, by stem


@dataclass(frozen=True)
class Job:
    """One image with its label: copied as it is (real), or with conditions turned into plain labels (synthetic)."""

    pair: Pair
    synthetic: bool
    whole: Path | None = None  # of a synthetic image: its label map before the cut at the cone


def real_pairs(folder: Path, views: list[str], problems: list[str]) -> tuple[list[Pair], dict[str, dict[str, str]]]:
    """The real test frames of `views`, and the metadata of every real frame."""
    known: dict[str, dict[str, str]] = {}
    found: dict[str, Pair] = {}
    for view_folder in find_view_folders(real_path(folder)):
        pairs = list_pairs(view_folder, problems, ["testing"])
        found |= {str(pair.stem): pair for pair in pairs if pair.stem.view in views}
        known |= read_metadata(view_folder)
    present = {pair.stem.view for pair in found.values()}
    problems += [f"{folder} has no test frames of {view}" for view in views if view not in present]
    problems += [not_real(pair) for pair in found.values() if not pair.stem.is_real]
    return list(found.values()), known


def people_elsewhere(synthetic: list[Pair], known: dict[str, dict[str, str]], own: bool, folder: Path) -> list[str]:
    """Problems of synthetic images made for a split that their patient is not in, by the real frames of `folder`.

    Where the lists of CAMUS were changed, or a data set of one's `own` is extracted with another seed or more patients,
    others are in the test.
    """
    splits = [(row.get("patient", ""), row.get("split", ""), row) for row in known.values()]
    split_of = {person_of(patient, split, row, own): split for patient, split, row in splits}
    elsewhere = []
    for pair in (pair for pair in synthetic if pair.stem.split != "testing"):  # those are refused as they are
        now = known.get(pair.stem.source, {}).get("split") or split_of.get(pair.stem.patient)
        if now and now != pair.stem.split:
            elsewhere.append(f"{pair.image}: made for {pair.stem.split}, and its patient is in {now} of {folder}")
    hint = "extract the test frames with the files and the --seed of the synthetic ones, or sample anew"
    return [*elsewhere, hint] if elsewhere else []


def process_job(job: Job, out: Path, description: Description) -> tuple[tuple[int, int] | None, str | None]:
    """Write one image and its label into its view's folder and all_views; returns its size or what is wrong."""
    pair = job.pair
    try:
        image, label = read_image(pair.image), read_label(pair.label)
        check_same_size(pair.image, image, pair.label, label)
        check_labels(pair.label, label, description.num_conditions if job.synthetic else description.num_classes)
        if job.whole:
            label = read_whole_label(job.whole, label, pair.label, description)
        elif job.synthetic:
            label = description.from_conditions(label)
    except UserError as error:
        return None, str(error)
    for folder in folders_of(pair.stem.view):
        place = {kind: out / folder / kind / pair.stem.split / f"{pair.stem}.png" for kind in (IMAGES, ANNOTATIONS)}
        place[IMAGES].write_bytes(encode_png(image))
        place[ANNOTATIONS].write_bytes(encode_png(label))
    return image.shape, None


def check_interpolation(made_from: Tables, known: Tables) -> list[str]:
    """Synthetic and real frames must have been extracted alike: the two rules shift label maps against one another."""
    rules = [{row.get("image_interpolation") for row in table.values()} - {None, ""} for table in (made_from, known)]
    if not all(rules) or rules[0] == rules[1]:
        return []
    theirs, ours = (" and ".join(sorted(one)) for one in rules)
    return [
        f"the frames that were sampled for were extracted with --image_interpolation {theirs}, the test frames with "
        f"{ours}: extract these alike"
    ]


def check_sizes(jobs: list[Job], sizes: list[tuple[int, int] | None]) -> list[str]:
    """All images must have one size: a network does not learn 64 x 64 images to be tested on 256 x 256 ones."""
    by_size: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for job, size in zip(jobs, sizes, strict=True):
        if size:
            by_size[size].append(job.pair.image)
    if len(by_size) < 2:
        return []
    text = "; ".join(f"{len(paths)} of {h} x {w} (as {paths[0]})" for (h, w), paths in by_size.items())
    return [f"images differ in size: {text}; extract the test frames with the --save_img_size of the synthetic ones"]


def prepare_inference4segmentation(settings: PrepareSettings) -> None:
    """Make the folders. Raises UserError that lists all that is wrong with the input, before anything appears."""
    check_settings(settings)
    problems: list[str] = []
    results = find_results(settings.sdm_results_folder)
    synthetic = synthetic_pairs(results, problems)
    description = common_description([*results, *find_view_folders(settings.testing_data_folder)])
    views = sorted({pair.stem.view for pair in synthetic})
    real, known = real_pairs(settings.testing_data_folder, views, problems)
    problems += people_elsewhere(synthetic, known, description != camus(), settings.testing_data_folder)
    made_from = {name: row for folder in results for name, row in read_metadata(folder).items()}
    problems += check_interpolation(made_from, known)
    whole = {}
    if settings.labels == "whole":
        whole = find_whole_labels(synthetic, settings.augmented_folder, problems)
    elif settings.augmented_folder:
        problems.append(f"--augmented_folder {settings.augmented_folder} is for --labels whole, not for cone")
    sampled_from = {path.parents[2] for path in whole.values()}
    inputs = [*find_view_folders(settings.testing_data_folder), *results, *sampled_from]
    of_set = names_of_set(settings.save_folder, filter(None, views))
    refuse_to_replace(inputs, settings.save_folder, of_set)
    jobs = [Job(pair, True, whole.get(pair)) for pair in synthetic] + [Job(pair, False) for pair in real]
    folders = [*filter(None, views), ALL_VIEWS]
    counts = f"{len(synthetic)} synthetic images and {len(real)} real ones"
    print(f"preparing {counts} for the segmentation, into {settings.save_folder}", flush=True)
    with new_folders(settings.save_folder, of_set, settings.overwrite, is_replaceable) as out:
        make_folders(out, folders)
        done = list(
            for_each(partial(process_job, out=out, description=description), jobs, settings.num_workers, "images")
        )
        problems += [problem for _, problem in done if problem]
        problems += check_sizes(jobs, [size for size, _ in done])
        if problems:
            raise UserError(f"{len(problems)} problems with the input:", problems)
        rows = [metadata_row(job.pair.stem, *((made_from, known) if job.synthetic else (known,))) for job in jobs]
        for folder in folders:
            write_description(out / folder, description)
            write_metadata(out / folder, [row for row in rows if folder in (row["view"], ALL_VIEWS)])
    count = {split: sum(pair.stem.split == split for pair in synthetic) for split in SPLITS}
    print(
        f"{', '.join(folders[:-1] or folders)}: "
        f"{count['training']} synthetic training, {count['validation']} synthetic validation and "
        f"{len(real)} real test images in {settings.save_folder}"
    )
    data = settings.save_folder / ALL_VIEWS
    print(next_step("echo_segmentation/runner.py", "--data-dir", data, "--output-dir", "./output/segmentation"))


if __name__ == "__main__":
    sys.exit(run_command(prepare_inference4segmentation, PrepareSettings, description=__doc__))

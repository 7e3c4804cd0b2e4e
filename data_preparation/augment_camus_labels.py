"""Make the labels that the SDM is conditioned on (of CAMUS: five-class sector labels): deformed ones to sample from
(default), or undeformed ones to train it with."""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from command import UserError, YesNo, run_command
from cone import CONES, doubtful
from dataset_description import Description
from deformation import MAX_TRIES, deform
from input_files import real_path
from names import Stem
from outputs import new_folders, refuse_to_replace
from parallel import default_workers, for_each
from progress import next_step
from schema import check_settings
from view_folders import (
    ANNOTATIONS,
    IMAGES,
    SECTOR_ANNOTATIONS,
    Pair,
    check_labels,
    check_same_size,
    common_description,
    encode_png,
    find_view_folders,
    is_replaceable,
    list_pairs,
    make_folders,
    metadata_row,
    not_real,
    read_image,
    read_label,
    read_metadata,
    warn,
    write_description,
    write_metadata,
)


@dataclass
class AugmentSettings:
    data_folder: Path
    """A view folder made by extract_camus_data.py, or the folder that holds them (then each of them, all_views too)."""
    save_folder: Path
    """Where <view>_augmented (or, with --add_augmentation False, <view>_sector) is made."""
    n_repeat: Annotated[int, Interval(ge=1, le=1000)] = 5
    """Deformed label maps per training and validation frame. Testing frames are passed through once, undeformed."""
    add_augmentation: YesNo = True
    """True: deformed label maps to sample from. False: the frames' own sector labels, the SDM's training folder."""
    cone: Literal["plain", "fit"] = "plain"
    """What of a frame is the ultrasound cone. plain: where the image is not 0, which is exact for CAMUS. fit: the
    convex hull of its largest bright part, of frames whose outside is not 0 (JPEG, another level, text)."""
    seed: Annotated[int, Interval(ge=0, lt=2**64)] = 0
    """The same seed gives the same files, whatever the number of workers."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = field(default_factory=default_workers)
    """Processes that work at the same time; 0 works in this one."""
    overwrite: YesNo = False
    """Replace <view>_augmented or <view>_sector if there already; otherwise that is an error."""


@dataclass
class Done:
    """What became of one frame: the names written, deformations drawn again, maps left undeformed, what was
    wrong or doubtful."""

    stems: list[Stem] = field(default_factory=list)
    rejected: int = 0
    undeformed: int = 0
    problem: str | None = None
    warning: str | None = None


def read_pair(pair: Pair, description: Description):
    """(image, label) as uint8 [height, width]. Raises UserError for files that cannot be used."""
    image, label = read_image(pair.image), read_label(pair.label)
    check_same_size(pair.image, image, pair.label, label)
    check_labels(pair.label, label, description.num_classes)
    if description.sector and not image.any():
        raise UserError(f"{pair.image} is 0 everywhere: it shows no ultrasound cone")
    return image, label


def find_cone(image: np.ndarray, rule: str, description: Description) -> np.ndarray:
    """What of `image` (uint8 [height, width]) is the ultrasound cone, by the `rule` of CONES: bool, the same shape; of
    a data set without a sector, everything."""
    return CONES[rule](image) if description.sector else np.ones(image.shape, bool)


def process_pair(job: tuple[Pair, str], out: Path, settings: AugmentSettings, description: Description) -> Done:
    """Write what is made of one frame below `out`/<folder>."""
    pair, folder = job
    done = Done()
    try:
        image, label = read_pair(pair, description)
    except UserError as error:
        done.problem = str(error)
        return done
    image_file = encode_png(image)
    cone = find_cone(image, settings.cone, description)
    if not cone.any():
        done.problem = f"{pair.image} shows no ultrasound cone: nothing is brighter than its corners"
        return done
    if description.sector and settings.cone == "plain" and (odd := doubtful(cone)):
        done.warning = f"{pair.image} {odd}; --cone fit finds the cone otherwise"
    deformed = settings.add_augmentation and pair.stem.split != "testing"
    for repeat in range(settings.n_repeat) if deformed else [None]:
        present = label
        if deformed:
            present, rejected = deform(label, cone, str(pair.stem), repeat, settings.seed, description.kept_whole())
            done.rejected += rejected
            done.undeformed += rejected == MAX_TRIES
        stem = replace(pair.stem, repeat=repeat)
        place = {kind: out / folder / kind / stem.split / f"{stem}.png" for kind in _kinds(settings, stem.split)}
        place[IMAGES].write_bytes(image_file)
        place[ANNOTATIONS].write_bytes(encode_png(present))
        if SECTOR_ANNOTATIONS in place:
            place[SECTOR_ANNOTATIONS].write_bytes(encode_png(description.to_conditions(present, cone)))
        done.stems.append(stem)
    return done


def _kinds(settings: AugmentSettings, split: str) -> tuple[str, ...]:
    """Deformed sets have no sector labels of testing frames: nothing is to be sampled from them."""
    if settings.add_augmentation and split == "testing":
        return IMAGES, ANNOTATIONS
    return IMAGES, ANNOTATIONS, SECTOR_ANNOTATIONS


def find_jobs(settings: AugmentSettings) -> tuple[dict[str, Path], list[tuple[Pair, str]], list[str]]:
    """Output folder -> view folder; (pair, output folder) of each frame; what is wrong with the names."""
    views = find_view_folders(real_path(settings.data_folder))
    suffix = "augmented" if settings.add_augmentation else "sector"
    folders = {f"{view.name}_{suffix}": view for view in views}
    problems: list[str] = []
    jobs = []
    for folder, view in folders.items():
        pairs = list_pairs(view, problems)
        problems += [not_real(pair) for pair in pairs if not pair.stem.is_real]
        if not pairs:
            problems.append(f"{view} holds no frames")
        jobs += [(pair, folder) for pair in pairs]
    return folders, jobs, problems


def refuse_idle(settings: AugmentSettings, description: Description) -> None:
    """Raises UserError for flags of deformations where nothing is deformed, and of a cone where there is none."""
    deforming = ("n_repeat", "seed"), not settings.add_augmentation, "with --add_augmentation False"
    finding = ("cone",), not description.sector, "on a data set whose description has no sector"
    for names, idle, why in (deforming, finding):
        for name in names:
            if idle and getattr(settings, name) != getattr(AugmentSettings, name):
                raise UserError(f"--{name} {getattr(settings, name)} has no effect {why}")


def augment_camus_labels(settings: AugmentSettings) -> None:
    """Make the folders. Raises UserError that lists all that is wrong with the input, before anything appears."""
    check_settings(settings)
    folders, jobs, problems = find_jobs(settings)
    description = common_description(folders.values())
    refuse_idle(settings, description)
    what = f"{settings.n_repeat} x deformed" if settings.add_augmentation else "undeformed"
    source = f"{len(jobs)} frames of {settings.data_folder}"
    print(f"making {what} label maps of {source}, into {settings.save_folder}", flush=True)
    refuse_to_replace(folders.values(), settings.save_folder, folders)
    known = {folder: read_metadata(view) for folder, view in folders.items()}
    with new_folders(settings.save_folder, list(folders), settings.overwrite, is_replaceable) as out:
        make_folders(out, folders, partial(_kinds, settings))
        work = partial(process_pair, out=out, settings=settings, description=description)
        results = list(for_each(work, jobs, settings.num_workers, "label maps"))
        problems += [done.problem for done in results if done.problem]
        if problems:
            raise UserError(f"{settings.data_folder} has {len(problems)} problems:", problems)
        warn([done.warning for done in results if done.warning])
        for folder in folders:
            mine = [done for (_, of), done in zip(jobs, results, strict=True) if of == folder]
            write_description(out / folder, description)
            write_metadata(out / folder, [metadata_row(stem, known[folder]) for done in mine for stem in done.stems])
    maps = sum(len(done.stems) for done in results if done.stems[0].split != "testing")
    tests = len(results) - sum(done.stems[0].split != "testing" for done in results)
    what = "undeformed sector label maps"
    if settings.add_augmentation:
        what = (
            f"deformed label maps ({sum(done.rejected for done in results)} deformations drawn again, "
            f"{sum(done.undeformed for done in results)} maps left undeformed)"
        )
    print(f"{maps} {what} and {tests} testing frames in {', '.join(folders)} of {settings.save_folder}")
    datadir = "--datadir", settings.save_folder / next(iter(folders))
    if settings.add_augmentation:
        how = "--resume_checkpoint", "CHECKPOINT", "--num_steps", 10, "--all", True
        print(next_step("semantic_diffusion_model/image_sample.py", *datadir, *how))
    else:
        print(next_step("semantic_diffusion_model/image_train.py", *datadir))


if __name__ == "__main__":
    sys.exit(run_command(augment_camus_labels, AugmentSettings, description=__doc__))

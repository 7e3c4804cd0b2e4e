"""A first dataset.json for a folder of images and label maps, and in words what of it is a guess."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from command import UserError, whole_file
from cone import doubtful, plain_cone
from dataset_description import COLOURS
from dataset_schema import Form
from own_frames import list_sources, pair_sources
from progress import next_step
from schema import checked
from source_files import read_source_image, read_source_label

LOOKED_AT = 40  # images, for a sector
MOST_VIEWS = 8
NAME_PARTS = re.compile(
    r"(?P<patient>.+?)(?P<between>[\s_\-.(\[]+)(?P<view>[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*)(?P<after>[)\]]?)"
)


def write_template(images: Path, labels: Path, path: Path) -> None:
    """Write a description of what the two folders hold to `path`, and print what was guessed. Raises UserError."""
    if path.exists():
        raise UserError(f"--dataset {path} is there already: give another name, or delete it")
    problems: list[str] = []
    ending = guess_ending(images, labels)
    pairs = pair_sources(images, labels, ending, problems, [])
    if problems or not pairs:
        raise UserError(f"{images} and {labels} have {max(1, len(problems))} problems:", problems or ["no images"])
    print(f"describing the {len(pairs)} images of {images} and their label maps, in {path}", flush=True)
    values: Counter[int] = Counter()
    for _, label in pairs.values():
        values.update(np.unique(read_source_label(label)).tolist())
    if len(values) < 2:
        raise UserError(f"{labels}: all label maps have the one value {min(values)} everywhere: no classes to describe")
    pattern, told = guess_pattern(list(pairs))
    guesses = [told]
    names = {"pattern": pattern} | ({"label_ending": ending} if ending else {})
    classes = [named_class(place, value, len(pairs), values[value]) for place, value in enumerate(sorted(values))]
    guesses.append(f"classes: the values {', '.join(map(str, sorted(values)))}; call them by their names, and which is "
                   "the background: the first")  # fmt: skip
    chosen = list(pairs.values())[:: max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT]
    sector, told = guess_sector([image for image, _ in chosen])
    guesses.append(told)
    reported = {one["name"]: [one["value"]] for one in classes[1:]}
    content = {"name": images.resolve().name or "data", "names": names, "classes": classes, "sector": sector}
    content |= {"reported": reported, "keep_whole": [one["value"] for one in classes[1:]]}
    content |= {"spacing_mm": None, "volumes": None}
    checked(Form, content, "the template")
    text = re.sub(
        r"\[\s+(\d[\d,\s]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(content, indent=2)
    )
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    guesses.append('reported: each class by itself; add unions, as "all": [1, 2]')
    guesses.append("spacing_mm: null, unless files say: [depth, lateral] mm of a pixel make distances mm")
    print("\n  ".join([f"{path} is written; guessed, to be looked at:", *guesses]))
    given = "--images", images, "--labels", labels, "--dataset", path
    print(next_step("data_preparation/extract_dataset.py", *given, "--save_folder_path", "./data/views"))


def named_class(place: int, value: int, frames: int, there: int) -> dict[str, object]:
    name = "background" if place == 0 else f"class_{value}"
    colour = (0, 0, 0) if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
    return {"name": name, "value": value, "colour": list(colour)}


def guess_ending(images: Path, labels: Path) -> str:
    """What names of label maps have after those of their images: the ending that makes the most pairs."""
    image_names, label_names = (list(list_sources(folder, [], [])) for folder in (images, labels))
    if set(image_names) & set(label_names) and images.resolve() != labels.resolve():
        return ""
    known, endings = set(image_names), Counter()
    for name in label_names:
        for cut in range(1, len(name)):
            if name[:cut] in known:
                endings[name[cut:]] += 1
    return endings.most_common(1)[0][0] if endings else ""


def guess_pattern(names: Sequence[str]) -> tuple[str, str]:
    """A regular expression for the names: patient and view, if a few words end them, of each of several patients; else
    every image is a patient's own. And what to tell of it."""
    matches = [NAME_PARTS.fullmatch(name) for name in names]
    if all(matches):
        views = sorted({match["view"] for match in matches})
        patients = {match["patient"] for match in matches}
        if 2 <= len(views) <= MOST_VIEWS and len(patients) < len(names) and len(patients) > 1:
            words = "|".join(map(re.escape, views))
            before, after = (_literally({match[part] for match in matches}) for part in ("between", "after"))
            told = f"names.pattern: {len(patients)} patients (as {min(patients)!r}), in the views {', '.join(views)}"
            return f"(?P<patient>.+?){before}(?P<view>{words}){after}", told
    told = "names.pattern: each image is of a patient of its own; if not, name what of the name is the patient"
    prefix = os.path.commonprefix(list(names))
    return r"(?P<patient>.+)", told + (f" (all names begin with {prefix!r})" if prefix else "")


def _literally(texts: set[str]) -> str:
    """A regular expression of these texts, with blanks that can be read."""
    words = "|".join(re.escape(text).replace("\\ ", " ") for text in sorted(texts))
    return words if len(texts) == 1 else f"(?:{words})"


def guess_sector(images: Sequence[Path]) -> tuple[dict[str, int] | None, str]:
    """A sector if most images are exactly 0 around one bright part, and what to tell of it."""
    masks = [plain_cone(read_source_image(image).pixels) for image in images]
    clean = sum(mask.any() and doubtful(mask) is None for mask in masks)
    if clean > len(masks) / 2:
        return {"outside": 0, "inside": 1}, f"sector: {clean} of {len(masks)} images are 0 around one bright part"
    return None, f"sector: none; only {clean} of {len(masks)} images are 0 around one bright part"

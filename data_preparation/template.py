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
from view_folders import warn

LOOKED_AT = 40  # images, for a sector
MOST_VIEWS = 8
DATE = r"(?:19|20)\d\d(?P<sign>[-_.]?)(?:0[1-9]|1[0-2])(?P=sign)(?:0[1-9]|[12]\d|3[01])"
NAME_PARTS = re.compile(rf"(?P<rest>.+?)(?P<between>[\s_\-.(\[]+)(?P<word>{DATE}|[A-Za-z0-9]+)(?P<after>[)\]]?)")
# What is counted of one patient, where a number stands behind it: frame12, visit 2, t0.
COUNTED = "beat|clip|cycle|day|exam|f|fr|frame|i|im|image|img|loop|run|s|scan|ses|session|sl|slice|t|time|v|video|visit"
NUMBER = re.compile(rf"(?i:{COUNTED})?\d+|{DATE}")
FIRST_PARTS = re.compile(r"(?P<word>[A-Za-z0-9]+)(?P<after>[\s_\-.]+)(?P<rest>.+)")


def write_template(images: Path, labels: Path, path: Path) -> None:
    """Write a description of what the two folders hold to `path`, and print what was guessed. Raises UserError."""
    if path.exists():
        raise UserError(f"--dataset {path} is there already: give another name, or delete it")
    if not path.parent.is_dir():
        raise UserError(f"--dataset {path}: {path.parent} is not a folder; make it first")
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
    classes = [named_class(place, value) for place, value in enumerate(sorted(values))]
    guesses.append(f"classes: the values {', '.join(map(str, sorted(values)))}; call them by their names, and which is "
                   "the background: the first")  # fmt: skip
    chosen = list(pairs.values())[:: max(1, len(pairs) // LOOKED_AT)][:LOOKED_AT]
    sector, told = guess_sector([image for image, _ in chosen])
    guesses.append(told)
    reported = {one["name"]: [one["value"]] for one in classes[1:]}
    content = {"name": images.resolve().name[:60] or "data", "names": names, "classes": classes, "sector": sector}
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
    warn([f"the patients are guessed from the names, and decide who is tested: look at names.pattern in {path} first"])
    given = "--images", images, "--labels", labels, "--dataset", path
    print(next_step("data_preparation/extract_dataset.py", *given, "--save_folder_path", "./data/views"))


def named_class(place: int, value: int) -> dict[str, object]:
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
    """A regular expression for the names, and what to tell of it: of each of several patients, frames by number, or by
    the few words that end or begin them, which are the view; else every image is a patient's own.

    Where it is not clear, too much goes to one patient: a person in two splits would spoil the test.
    """
    before, view = "", ""
    rests, tail = _without_same_words(list(names))
    rests, numbers = _without_numbers(rests)
    rests, same = _without_same_words(rests)
    behind = same + numbers + tail
    while parts := _last_words(rests, number=False):
        words = _part(parts, "word")
        if view:
            view = words + _part(parts, "after") + before + view
        else:
            view, behind = words, _part(parts, "after") + behind
        rests, before = [match["rest"] for match in parts], _part(parts, "between")
    if view:  # a visit or a date may stand before it
        rests, more = _without_numbers(rests)
        numbers, before = numbers + more, more + before
    first, rests = _first_words(rests)
    if not (first or view or numbers):
        told = "names.pattern: each image is of a patient of its own; if not, name what of the name is the patient"
        prefix = os.path.commonprefix(list(names))
        return r"(?P<patient>.+)", told + (f" (all names begin with {prefix!r})" if prefix else "")
    last = "phase" if first else "view"
    ending = f"{before}(?P<{last}>{_without_brackets(view)})" if view else ""
    pattern = f"{first}(?P<patient>.+?){ending}{behind}"
    told = f"names.pattern: {len(set(rests))} patients (as {min(rests)!r})" + (", frames by number" if numbers else "")
    for group, kind in (("view", "in the views"), ("phase", "the phases")):
        if f"<{group}>" in pattern:
            told += f", {kind} {', '.join(sorted({re.fullmatch(pattern, name)[group] for name in names}))}"
    return pattern, told


def _without_numbers(names: Sequence[str]) -> tuple[list[str], str]:
    """`names` without the last words that count frames, visits or days of a patient; a regular expression of these."""
    parts = _last_words(names, number=True)
    if not parts:
        return list(names), ""
    dated = any(not match["word"].isalnum() for match in parts)
    letters = {re.sub(r"\d+$", "", match["word"]) for match in parts}
    word = r"[\d\-_.]+" if dated else rf"{_literally(letters)}\d+"
    return [match["rest"] for match in parts], f"{_part(parts, 'between')}{word}{_part(parts, 'after')}"


def _last_words(names: Sequence[str], number: bool) -> list[re.Match]:
    """Of each of `names` what stands before its last word, and that word, a number or one of a few; nothing if that
    word does not tell frames of one patient apart."""
    matches = [NAME_PARTS.fullmatch(name) for name in names]
    if not all(matches):
        return []
    words, patients = ({match[part] for match in matches} for part in ("word", "rest"))
    fits = {bool(NUMBER.fullmatch(word)) for word in words} == {number} and (number or 2 <= len(words) <= MOST_VIEWS)
    return matches if fits and 1 < len(patients) < len(set(names)) else []


def _first_words(names: Sequence[str]) -> tuple[str, list[str]]:
    """The view that `names` begin with, as a regular expression with what stands before it, and the rest of them."""
    before, rests = "", list(names)
    while all(matches := [FIRST_PARTS.fullmatch(name) for name in rests]):
        words, patients = ({match[part] for match in matches} for part in ("word", "rest"))
        rests = [match["rest"] for match in matches]
        after = _part(matches, "after")
        if len(words) > 1:
            telling = len(words) <= MOST_VIEWS and not any(word.isdigit() for word in words)
            if not telling or not 1 < len(patients) < len(set(names)):
                break
            return f"{before}(?P<view>{_without_brackets(_literally(words))}){after}", rests
        before += _literally(words) + after
    return "", list(names)


def _without_same_words(names: Sequence[str]) -> tuple[list[str], str]:
    """`names` without the last words that all of them have alike, and a regular expression of these."""
    rests, tail = list(names), ""
    while all(matches := [NAME_PARTS.fullmatch(name) for name in rests]):
        if len({match["word"] for match in matches}) > 1:
            break
        tail = "".join(_part(matches, part) for part in ("between", "word", "after")) + tail
        rests = [match["rest"] for match in matches]
    return rests, tail


def _part(matches: Sequence[re.Match], part: str) -> str:
    """A regular expression of what `part` is in these matches."""
    return _literally({match[part] for match in matches})


def _literally(texts: set[str]) -> str:
    """A regular expression of these texts, with blanks that can be read."""
    words = "|".join(re.escape(text).replace("\\ ", " ") for text in sorted(texts))
    return words if len(texts) == 1 else f"(?:{words})"


def _without_brackets(expression: str) -> str:
    """Of a choice of words that stands in a group of its own."""
    return re.sub(r"^\(\?:([\w|]+)\)$", r"\1", expression)


def guess_sector(images: Sequence[Path]) -> tuple[dict[str, int] | None, str]:
    """A sector if most images are exactly 0 around one bright part, and what to tell of it."""
    masks = [plain_cone(read_source_image(image).pixels) for image in images]
    clean = sum(mask.any() and doubtful(mask) is None for mask in masks)
    if clean > len(masks) / 2:
        return {"outside": 0, "inside": 1}, f"sector: {clean} of {len(masks)} images are 0 around one bright part"
    return None, f"sector: none; only {clean} of {len(masks)} images are 0 around one bright part"

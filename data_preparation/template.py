"""A first dataset.json for a folder of images and label maps, and in words what of it is a guess."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from command import UserError, whole_file
from cone import doubtful, plain_cone
from dataset_description import COLOURS
from dataset_schema import Form
from input_files import real_path
from own_frames import list_sources, pair_sources
from progress import next_step
from schema import checked
from source_files import read_source_image, read_source_label
from view_folders import warn

LOOKED_AT = 40  # images, for a sector
MOST_VIEWS = 8
DATE = r"(?:19|20)\d\d(?P<sign>[-_.]?)(?:0[1-9]|1[0-2])(?P=sign)(?:0[1-9]|[12]\d|3[01])"
ANY_DATE = r"\d{4}[-_.]?\d\d[-_.]?\d\d"  # what stands in a pattern, without groups
SEPARATORS = re.compile(r"[\s_\-.()\[\]]+")
NAME_PARTS = re.compile(rf"(?P<rest>.+?)(?P<between>[\s_\-.(\[]+)(?P<word>{DATE}|[A-Za-z0-9]+)(?P<after>[)\]]?)")
FIRST_PARTS = re.compile(r"(?P<word>[A-Za-z0-9]+)(?P<after>[\s_\-.]+)(?P<rest>.+)")
# What is counted of one patient: frame12, visit 2, t0; some of these words may also stand before a patient's number.
SURE = "beat|clip|cycle|fr|frame|loop|plane|sl|slice|time|timepoint|view|visit"
UNSURE = "day|exam|f|im|image|img|run|scan|ses|session|t|video"
NUMBER = re.compile(rf"(?P<date>{DATE})|(?i:(?P<sure>{SURE})|(?P<unsure>{UNSURE})|(?P<other>[a-z]+))?\d+")
FIRST_DATE = re.compile(rf"(?P<word>{DATE})(?P<after>[\s_\-.]+)(?P<rest>.*[A-Za-z].*)")
VIEW = re.compile(r"(?i)a?p?[2345]c?h?c?|a[2345]c|plax|psax|p?lax|p?sax|e[ds]|left|right|dia|sys|diastole|systole")


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
        values.update(np.unique(read_source_label(label).pixels).tolist())
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
    content = {"name": real_path(images).name[:60] or "data", "names": names, "classes": classes, "sector": sector}
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
    if set(image_names) & set(label_names) and real_path(images) != real_path(labels):
        return ""
    known, endings = set(image_names), Counter()
    for name in label_names:
        for cut in range(1, len(name)):
            if name[:cut] in known:
                endings[name[cut:]] += 1
    return endings.most_common(1)[0][0] if endings else ""


def guess_pattern(names: Sequence[str]) -> tuple[str, str]:
    """A regular expression for the names, and what to tell of it: of each of several patients, frames, visits or dates
    by number, or by the few words that end or begin them, which are view and phase; else each image is of its own.

    Where it is not clear, too much goes to one patient: a person in two splits would spoil the test.
    """
    rests, pieces = list(names), []
    while found := _last_piece(rests, numbered=any(piece.kind != "same" for piece in pieces)):
        rests, piece = found
        pieces.insert(0, piece)
    dated, rests = _first_dates(rests)
    first, rests = _first_words(rests)
    first, view = dated + first, not first
    counted = bool(dated) or any(piece.kind == "number" for piece in pieces)
    if not (first or counted or any(piece.kind == "word" for piece in pieces)):
        told = "names.pattern: each image is of a patient of its own; if not, name what of the name is the patient"
        prefix = os.path.commonprefix(list(names))
        return r"(?P<patient>.+)", told + (f" (all names begin with {prefix!r})" if prefix else "")
    pattern = f"{first}(?P<patient>.+?){_with_groups(pieces, view)}"
    matches = [re.fullmatch(pattern, name) for name in names]
    patients = {match["patient"] for match in matches}
    told = f"names.pattern: {len(patients)} patients (as {min(patients)!r})"
    told += ", frames, visits or dates by number" if counted else ""
    for group, kind in (("view", "in the views"), ("phase", "the phases")):
        if f"<{group}>" in pattern:
            told += f", {kind} {', '.join(sorted({match[group] for match in matches}))}"
    return pattern, told


@dataclass(frozen=True)
class Piece:
    """The last word of all names, as a regular expression: `same` everywhere, a `number`, or a `word` of few."""

    kind: str
    between: str
    word: str
    after: str


def _last_piece(names: Sequence[str], numbered: bool) -> tuple[list[str], Piece] | None:
    """What stands before the last word of each of `names`, and that word; None if it does not tell frames of one
    patient apart. numbered: something stood behind it already, so that a plain number may be the patient's."""
    matches = [NAME_PARTS.fullmatch(name) for name in names]
    if not all(matches):
        return None
    words, left = {match["word"] for match in matches}, {match["rest"] for match in matches}
    kind, word = "word", _literally(words)
    numbers = [NUMBER.fullmatch(word) for word in words]
    sure = all(number and (number["sure"] or number["date"]) for number in numbers)
    if len(words) == 1:
        kind = "same"
    elif not 1 < len(left) < len(set(names)) + sure or _are_views(left):
        return None
    elif all(numbers):
        if not sure and _may_be_the_patient(numbers, left, numbered):
            return None
        kind = "number"
        letters = {re.sub(r"\d+$", "", number[0]) for number in numbers if not number["date"]}
        choice = [ANY_DATE] * any(number["date"] for number in numbers) + [rf"{_literally(letters)}\d+"] * bool(letters)
        word = choice[0] if len(choice) == 1 else f"(?:{'|'.join(choice)})"
    elif not _may_be_views(words) or any(number and number["date"] for number in numbers):
        return None
    rests = [match["rest"] for match in matches]
    return rests, Piece(kind, _part(matches, "between"), word, _part(matches, "after"))


def _may_be_views(words: set[str]) -> bool:
    """Whether these words are few and no numbering of patients: p01, p02 ..."""
    numbering = len({re.sub(r"\d+$", "", word) for word in words}) == 1 and not all(map(VIEW.fullmatch, words))
    return len(words) <= MOST_VIEWS and not numbering and not any(word.isdigit() for word in words)


def _varying(names: Collection[str]) -> list[set[str]]:
    """Of each name its words that not all of them have."""
    words = [set(filter(None, SEPARATORS.split(name))) for name in names]
    common = set.intersection(*words)
    return [own - common for own in words]


def _are_views(left: set[str]) -> bool:
    """Whether these beginnings of names differ in well-known views alone: then patients stand behind them."""
    return all(words and all(map(VIEW.fullmatch, words)) for words in _varying(left))


def _may_be_the_patient(numbers: Sequence[re.Match], left: set[str], numbered: bool) -> bool:
    """Whether these numbers are the patients', and what stands before them, `left`, their sites or years."""
    plain = all(number[0].isdigit() for number in numbers)
    if plain and not numbered:
        return False
    if any(number["other"] for number in numbers):  # any letters: they count where they are fewer than what they follow
        return len(numbers) > len(left)
    few = len(left) <= MOST_VIEWS and not any(word[-1].isdigit() for words in _varying(left) for word in words)
    return few or (numbered and len(numbers) > len(left))


def _with_groups(pieces: Sequence[Piece], view: bool) -> str:
    """`pieces` as one regular expression, in which words beside one another are a group: the last the phase and the
    first the `view`, if that is still to be found; a single one is the view then."""
    runs = [list(run) for _, run in groupby(pieces, key=lambda piece: piece.kind == "word")]
    places = [place for place, run in enumerate(runs) if run[0].kind == "word"]
    titles = dict.fromkeys(places[-1:], "phase") | (dict.fromkeys(places[:1], "view") if view else {})
    text = ""
    for place, run in enumerate(runs):
        joined = "".join(f"{piece.between}{piece.word}{piece.after}" for piece in run)
        if title := titles.get(place):
            inner = joined.removeprefix(run[0].between).removesuffix(run[-1].after)
            joined = f"{run[0].between}(?P<{title}>{_without_brackets(inner)}){run[-1].after}"
        text += joined
    return text


def _first_dates(names: Sequence[str]) -> tuple[str, list[str]]:
    """The dates that all `names` begin with, as a regular expression, and the rest of them, which must have letters: a
    mere number may be that of the day's patient."""
    matches = [FIRST_DATE.fullmatch(name) for name in names]
    if not all(matches):
        return "", list(names)
    return ANY_DATE + _part(matches, "after"), [match["rest"] for match in matches]


def _first_words(names: Sequence[str]) -> tuple[str, list[str]]:
    """The view that `names` begin with, as a regular expression with what stands before it, and the rest of them."""
    before, view, between, rests = "", "", "", list(names)
    while all(matches := [FIRST_PARTS.fullmatch(name) for name in rests]):
        words, patients = ({match[part] for match in matches} for part in ("word", "rest"))
        varying = len(words) > 1
        telling = _may_be_views(words) and 1 < len(patients) < len(set(names))
        if view and not (varying and telling and all(map(VIEW.fullmatch, words))):
            break  # a second word is the view's too where it is one that is known
        if varying and not telling:
            break
        rests = [match["rest"] for match in matches]
        after = _part(matches, "after")
        if varying:
            view += between + _literally(words)
            between = after
        else:
            before += _literally(words) + after
    return (f"{before}(?P<view>{_without_brackets(view)}){between}", rests) if view else ("", list(names))


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

"""evaluation.md: the numbers of evaluation.json as tables, each with how to read it."""

import math
from collections.abc import Sequence
from typing import Any

from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.distances import ENOUGH_IMAGES
from guided_diffusion.evaluation.memorisation import sentence

INTRODUCTION = (
    "A difference counts where it is **outside** the yardstick: larger than 95 % of the differences between two random "
    "halves of the real patients (of few synthetic patients the yardstick is longer, as so few differ by chance). "
    "Intervals are 95 %, patients resampled; every patient counts alike. What each number is: docs/evaluation.md."
)
READING = {
    "grey_levels": (
        "Grey levels inside each class",
        "Wasserstein: by how many grey levels the pixels of a class would have to be moved for both distributions to "
        "be the same; mean and sd are of a frame's pixels.",
    ),
    "contrast": (
        "Contrast",
        "CNR: difference of the means over the joint deviation, positive where the first is darker; gCNR: 1 less the "
        "overlap of the two histograms, 0 where nobody could tell them apart, 1 where everybody could.",
    ),
    "speckle": (
        "Speckle",
        "Nakagami's m is 1 for fully developed speckle, below for few or clustered scatterers, above for smoothed "
        "pictures; Omega is the mean power, 0 dB at white. Fitted to grey levels with the log compression undone by an "
        "assumed dynamic range of {dynamic_range_db:g} dB: compare them with one another, not with other work. Black "
        "pixels (level 0) are counted, not fitted.",
    ),
    "autocorrelation": (
        "Autocorrelation length",
        "At how many pixels, in depth and across, the texture of a class has lost half of its correlation: larger is "
        "coarser or smoother; 0.5 is noise without grain.",
    ),
    "power_spectrum": (
        "Radial power spectrum",
        "Which share of a frame's power lies in each octave: less at high frequencies is a smoother picture, more is a "
        "noisier one.",
    ),
}
NOT_COMPUTED = {
    "encoder": "not computed: give `--segmentation_model`, the model.pth of echo_segmentation/runner.py",
    "inception": (
        "not computed: give `--feature_weights`, the file weights-inception-2015-12-05-6726825d.pth of "
        "torch-fidelity's release v0.2.0 on GitHub"
    ),
}


def page(entry: dict[str, Any], classes: Classes) -> str:
    """The report on one synthetic set."""
    images = entry["images"]
    parts = [
        "# Synthetic echoes against real ones",
        f"{images['synthetic']} synthetic images of {images['label_maps']} label maps ({images['synthetic_dir']}) "
        f"against {images['real']} real frames of {images['real_patients']} patients ({images['real_dir']}), "
        f"{images['height']} x {images['width']} pixels.",
        INTRODUCTION,
        _summary(entry),
    ]
    for section, (title, text) in READING.items():
        text = text.format(**images)
        if section == "grey_levels":
            text += " [Figure](figures/grey_levels.png)."
        if section == "power_spectrum":
            text += " [Figure](figures/power_spectrum.png)."
        parts += [f"## {title}", text, differences_table(entry[section])]
    parts += ["## Distances of features", _distances_text(), distances_table(entry["distances"])]
    parts += ["## Label agreement", *_agreement(entry["label_agreement"], classes)]
    parts += ["## Diversity", *_diversity(entry["diversity"])]
    parts += ["## Are patients copied?", *_memorisation(entry["memorisation"])]
    return "\n\n".join(parts) + "\n"


def _summary(entry: dict[str, Any]) -> str:
    judged = [one["outside"] for section in READING for keys in entry[section].values() for one in keys.values()]
    judged = [outside for outside in judged if outside is not None]
    told = f"{sum(judged)} of {len(judged)} differences are outside the yardstick ([figure](figures/differences.png))."
    return f"**In short:** {told} {sentence(entry['memorisation'])}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Three significant digits; a dash for what is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def span(pair: Sequence[float] | None) -> str:
    return "–" if pair is None or not all(map(math.isfinite, pair)) else f"{pair[0]:.3g} to {pair[1]:.3g}"


def verdict(outside: bool | None) -> str:
    """What is said of a difference; None where there is no yardstick for it."""
    return "not judged" if outside is None else "**outside**" if outside else "within"


def differences_table(section: dict[str, dict[str, dict]]) -> str:
    header = ["", "", "real", "synthetic", "difference", "95 % interval", "yardstick", ""]
    rows = []
    for row, keys in section.items():
        for key, one in keys.items():
            unit = f" ({one['unit']})" if one["unit"] else ""
            values = [number(one[name]) for name in ("real", "synthetic", "difference")]
            told = verdict(one["outside"]) if math.isfinite(one["difference"]) else "not there"
            name = f"{key.replace('_', ' ')}{unit}"
            rows.append([row.replace("_", " "), name, *values, span(one["interval"]), number(one["yardstick"]), told])
    return table(header, rows)


def _distances_text() -> str:
    return (
        "How far apart the clouds of features lie, of our segmentation's encoder, which sees the anatomy, and of "
        "Inception, which has seen photographs: 0 is the same cloud. Both distances depend on how many images "
        "there are, so the yardstick compares halves of the real patients, and *equal numbers* such a half with as "
        "many synthetic images. Precision: the share of synthetic images among real ones; recall: of real ones "
        "among synthetic ones."
    )


def distances_table(entry: dict[str, Any]) -> str:
    header = ["features", "", "all images", "equal numbers", "range", "yardstick", ""]
    names = {
        "encoder": ("encoder", "Frechet distance", "kernel distance"),
        "inception": ("Inception", "FID", "KID"),
    }
    rows = []
    for network, (title, *titles) in names.items():
        found = entry[network]
        if found is None:
            rows += [[title, name, "not computed", "", "", "", ""] for name in (*titles, "precision", "recall")]
            continue
        for name, key in zip(titles, ("frechet", "kernel"), strict=True):
            one = found[key]
            values = [number(one["all_images"]), number(one["equal_numbers"]), span(one["interval"])]
            told = verdict(one["outside"]) + (": halves of one image" if one["outside"] is None else "")
            rows.append([title, name, *values, number(one["yardstick"]), told])
        rows += [[title, key, number(found[key]), "", "", "", ""] for key in ("precision", "recall")]
    missing = [f"{names[name][0]}: {NOT_COMPUTED[name]}." for name, found in entry.items() if found is None]
    few = [name for name, found in entry.items() if found is not None and not found["enough_images"]]
    if few:
        missing.append(f"Fewer than {ENOUGH_IMAGES} images: do not compare these distances with other work.")
    return "\n\n".join([table(header, rows), *missing])


def _agreement(entry: dict[str, Any] | None, classes: Classes) -> list[str]:
    if entry is None:
        return [
            "Not computed: run echo_segmentation/predict.py on samples/, and give its output folder as `--predictions` "
            "(and of real frames as `--real_predictions`)."
        ]
    rows = []
    for name, found in entry.items():
        if found is None:
            rows.append([name, "0", *("–" for _ in classes.structures)])
            continue
        cells = [f"{number(one['dice'])} ({span(one['interval'])})" for key, one in found.items() if key != "frames"]
        rows.append([name, str(found["frames"]), *cells])
    text = (
        "Dice between the label that an image was drawn for and what a segmentation network sees in it; well below the "
        "real frames': images do not show their labels; well above: they show them more clearly than real ones do."
    )
    return [text, table(["frames", "", *map(classes.description.title, classes.structures)], rows)]


def _diversity(entry: dict[str, Any]) -> list[str]:
    text = (
        "Mean structural similarity (SSIM) of pairs of images, within the cone if they have one: 1 is the same image. "
        "Images of one map, drawn with different seeds, should differ in speckle; images of different patients should "
        "differ as much as real patients do: a higher number means that they are all alike."
    )
    rows = []
    for name, found in entry.items():
        told = (
            [number(found["mean"]), span(found["interval"])] if found["pairs"] else ["not computed: no such pairs", ""]
        )
        rows.append([name.replace("_", " "), str(found["pairs"]), *told])
    return [text, table(["pairs", "", "SSIM", "95 % interval"], rows)]


def _memorisation(entry: dict[str, Any]) -> list[str]:
    parts = [
        sentence(entry),
        "Each image is compared with every training frame, as it lies and turned upright by "
        "its label, mirrored too, by the correlation of their fine patterns (brightness, contrast and slow changes "
        "taken off). Real frames of unseen patients show how alike two patients can be "
        "([figure](figures/nearest.png), [closest pairs](figures/closest_pairs.png)).",
    ]
    header = ["correlation with the nearest training frame", "synthetic, median", "closest", "held-out real, median"]
    rows = [
        [way, *(number(found[key]) for key in ("median_synthetic", "closest_synthetic", "median_held_out"))]
        + [number(found["closest_held_out"]), number(found["threshold"])]
        for way, found in entry["ways"].items()
    ]
    parts.append(table([*header, "closest", "copies from"], rows))
    parts.append(
        f"{entry['closer_than_closest_held_out']:.1%} of the synthetic images are closer than the closest held-out "
        f"frame (of {entry['held_out_images']}"
        + (", each against the other patients' training frames" if entry["held_out_are_training"] else "")
        + ")."
    )
    if entry["features"]:
        found = entry["features"]
        parts.append(
            f"In the encoder's features the nearest training frame lies {number(found['median_synthetic'])} away "
            f"(median; held-out real frames: {number(found['median_held_out'])}); "
            f"{found['closer_than_closest_held_out']:.1%} are closer than the closest held-out one."
        )
    columns = ["image", "training frame", "correlation", "mirrored"]
    if entry["named"]:
        parts += ["Copies:", table(columns, [_pair(one) for one in entry["named"]])]
    if entry["doubles_among_real"]:
        parts.append("Held-out real frames that are themselves nearly equal to a training frame (look at your data):")
        parts.append(table(columns, [_pair(one) for one in entry["doubles_among_real"]]))
    return parts


def _pair(one: dict[str, Any]) -> list[str]:
    return [one["image"], one["training_frame"], f"{one['correlation']:.3f}", "yes" if one["flipped"] else "no"]


def comparison_page(entry: dict[str, Any], classes: Classes) -> str:
    """The report on A against B."""
    parts = [
        "# Two synthetic sets, paired by label map",
        f"A: {entry['sets']['A']} ([report](A/evaluation.md)); B: {entry['sets']['B']} ([report](B/evaluation.md)); "
        f"{entry['label_maps_in_common']} label maps of {entry['patients']} patients in common.",
        "Of each number: means of real, A and B, the paired difference, and which set is closer to real (where the 95 "
        "% interval of how much farther the other is does not include 0; patients resampled, not adjusted for the "
        "number of lines). [Figure](figures/comparison.png).",
    ]
    header = ["", "", "real", "A", "B", "B - A", "95 % interval", "closer to real"]
    for section, (title, _) in READING.items():
        rows = [
            [row.replace("_", " "), key.replace("_", " ")]
            + [number(one[name]) for name in ("real", "a", "b", "b_minus_a")]
            + [span(one["interval"]), one["closer_to_real"] or "not judged"]
            for row, keys in entry[section].items()
            for key, one in keys.items()
        ]
        parts += [f"## {title}", table(header, rows)]
    if entry["label_agreement"]:
        rows = [
            [
                classes.description.title(name),
                *(number(one[key]) for key in ("a", "b", "b_minus_a")),
                span(one["interval"]),
            ]
            for name, one in entry["label_agreement"].items()
        ]
        parts += ["## Label agreement (Dice)", table(["", "A", "B", "B - A", "95 % interval"], rows)]
    return "\n\n".join(parts) + "\n"

"""Copies are found, whatever was done to them; honest images are not called copies."""

import cv2
import numpy as np
import pytest
import torch
from small_echoes import draw_image, draw_label

from dataset_description import camus
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.fingerprints import Nearest, fingerprints, with_layouts
from guided_diffusion.evaluation.image_sets import Frame
from guided_diffusion.evaluation.job import Real, judge_copies
from guided_diffusion.evaluation.measuring import Measured
from guided_diffusion.evaluation.memorisation import judge, nearest_in_features, report, sentence

TRAINING, HELD_OUT, HONEST, POOL = 60, 30, 200, 1500
CAMUS = Classes(camus())


def draw(count: int, seed: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    generators = [np.random.default_rng([seed, i]) for i in range(count)]
    if labels is None:
        labels = np.stack([draw_label(generator) for generator in generators])
    return np.stack([draw_image(*pair) for pair in zip(labels, generators, strict=True)]), labels


@pytest.fixture(scope="module")
def training():
    return draw(TRAINING, 1)


@pytest.fixture(scope="module")
def nearest(training):
    known = Nearest(with_layouts(*training, CAMUS), [f"p{i}" for i in range(TRAINING)], torch.device("cpu"))
    return lambda images, labels: known(fingerprints(images, labels, CAMUS))


@pytest.fixture(scope="module")
def held_out(nearest):
    return nearest(*draw(HELD_OUT, 2))[..., 0]


@pytest.fixture(scope="module")
def honest(training):
    """Fresh speckle on the training frames' labels, some moved, some as they are."""
    labels = np.stack([np.roll(training[1][i % TRAINING], i % 4, 1) for i in range(HONEST)])
    return draw(HONEST, 3, labels)


def test_an_honest_set_has_no_copies(nearest, honest, held_out):
    assert not judge(nearest(*honest)[..., 0], held_out, TRAINING).copies.any()


@pytest.fixture(scope="module")
def pools(nearest, training):
    """Correlations [POOL, ways] of unseen frames, and of fresh speckle on the training frames' labels, moved."""
    labels = np.stack([np.roll(training[1][i % TRAINING], i // TRAINING % 4, 1) for i in range(POOL)])
    return tuple(nearest(*pictures)[..., 0] for pictures in (draw(POOL, 4), draw(POOL, 5, labels)))


CHANGES = {
    "as it is": lambda image: image,
    "flipped": lambda image: image[:, ::-1],
    "brightened": lambda image: cv2.convertScaleAbs(image, alpha=1.3, beta=20),
    "darkened": lambda image: cv2.convertScaleAbs(image, alpha=0.6),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 1.0),
    "noisy": lambda image: cv2.add(image, np.random.default_rng(0).integers(0, 30, image.shape).astype(np.uint8)),
    "JPEG": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0),
    "flipped, brightened and blurred": lambda image: cv2.GaussianBlur(
        cv2.convertScaleAbs(image[:, ::-1], alpha=1.2, beta=10), (0, 0), 0.8
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("share", [0.01, 0.05, 1.0])
def test_planted_copies_are_found_and_named_and_nothing_else(nearest, training, honest, held_out, change, share):
    """The copies lie beside labels that were drawn for other images: their own, moved, as in a results folder."""
    images, labels = (array.copy() for array in honest)
    planted = np.arange(0, HONEST, round(1 / share))
    for i in planted:
        images[i] = CHANGES[change](training[0][(7 * i + 3) % TRAINING])
    found = nearest(images, labels)
    copies = judge(found[..., 0], held_out, TRAINING).copies
    assert np.flatnonzero(copies).tolist() == planted.tolist()
    assert found[planted, 0, 1].tolist() == [(7 * i + 3) % TRAINING for i in planted]
    assert (found[planted, 0, 2] == ("flipped" in change)).all()


def test_a_frame_that_was_deformed_with_its_label_is_found_by_the_label(nearest, training, held_out):
    turn = cv2.getRotationMatrix2D((31.5, 31.5), 5, 0.92)
    turn[0, 2] += 2
    warped = [
        [cv2.warpAffine(one, turn, one.shape[::-1], flags=method) for one in array[:20]]
        for array, method in zip(training, (cv2.INTER_LINEAR, cv2.INTER_NEAREST), strict=True)
    ]
    found = nearest(*map(np.stack, warped))
    judged = judge(found[..., 0], held_out, TRAINING)
    assert (found[:, 1, 0] > judged.thresholds[1]).mean() > 0.9
    assert (found[:, 1, 1] == np.arange(20)).all()
    assert (found[:, 0, 0] < judged.thresholds[0]).mean() > 0.5  # which looking in place would have missed


def test_a_few_copies_among_held_out_frames_do_not_hide_others():
    generator = np.random.default_rng(0)
    held_out = np.tanh(generator.normal(0.6, 0.08, (200, 2)))
    honest = np.tanh(generator.normal(0.6, 0.08, (500, 2)))
    spoilt = np.concatenate([held_out, np.full((4, 2), 0.99)])
    found = judge(np.concatenate([honest, np.full((5, 2), 0.95)]), spoilt, TRAINING)
    assert found.copies.sum() == 5 and found.held_out_copies.sum() == 4
    same = np.concatenate([honest, np.full((5, 2), 0.95)])
    assert found.thresholds == pytest.approx(judge(same, held_out, TRAINING).thresholds, abs=0.02)
    assert found.closest_held_out.max() < 0.9


def test_held_out_frames_that_are_all_copies_are_told_as_such():
    """Of a validation folder that was copied from training."""
    found = judge(np.full((5, 2), 0.5), np.ones((40, 2)), TRAINING)
    assert found.held_out_copies.all()
    assert (found.closest_held_out == 1).all() and not found.closer.any()


@pytest.mark.parametrize(("frames", "images"), [(12, 40), (30, 200), (400, 900)])
def test_false_alarms_in_honest_sets_are_as_rare_as_promised(pools, frames, images):
    """Of images, not of a law that is assumed: held-out frames and honest sets drawn from many of each."""
    held_out, honest = pools
    sets, alarms, closest = 150, 0, []
    for seed in range(sets):
        generator = np.random.default_rng(seed)
        found = judge(
            honest[generator.permutation(POOL)[:images]], held_out[generator.permutation(POOL)[:frames]], TRAINING
        )
        alarms += bool(found.copies.any())
        closest.append(found.thresholds.max())
    assert alarms <= 4  # of 150 sets; by the level of 0.005 one is expected
    assert max(closest) < 0.75  # copies match by 0.8 and more


@pytest.mark.parametrize("copies", [1, 8, 64])
def test_the_more_copies_there_are_the_more_of_them_are_called(copies):
    """Copies that are no closer than one honest image of 500 may be: alone they are not told, among many they are."""
    generator = np.random.default_rng(1)
    held_out, honest = (np.tanh(generator.normal(0.6, 0.08, (count, 2))) for count in (400, 500))
    alone = judge(np.concatenate([honest, np.ones((1, 2))]), held_out, TRAINING).thresholds
    planted = np.tile(alone - 0.02, (copies, 1))
    found = judge(np.concatenate([honest, planted]), held_out, TRAINING)
    assert found.copies[500:].all() == (copies > 1) and found.copies[:500].sum() <= 1


def test_many_images_nearer_than_any_held_out_frame_are_told_of():
    entry = {
        "copies": 0,
        "images": 100,
        "held_out_images": 99,
        "held_out_are_training": False,
        "ways": {"a": {}, "b": {}},
    }
    told = sentence(entry | {"closer_than_closest_held_out": 0.2})
    assert "None of the 100" in told
    assert "20.0% of them lie nearer to a training frame than any of those 99 does, where 2.0% would be" in told
    assert "nearer" not in sentence(entry | {"closer_than_closest_held_out": 0.1})
    assert "nearer" not in sentence(entry | {"closer_than_closest_held_out": 0.9, "held_out_images": 9})


def test_the_entry_names_copies_and_says_so_in_words(nearest, training, honest, held_out):
    images, labels = (array[:20].copy() for array in honest)
    images[4] = training[0][9][:, ::-1]
    known = [Frame(f"t{i}", "", "", f"p{i}", f"t{i}", f"t{i}") for i in range(TRAINING)]
    made = [Frame(f"s{i}", "", "", f"p{i}", f"t{i}_0", f"t{i}") for i in range(20)]
    unseen = [Frame(f"h{i}", "", "", f"h{i}", f"h{i}", f"h{i}") for i in range(HELD_OUT)]
    others = np.stack([held_out, np.zeros_like(held_out), np.zeros_like(held_out)], -1)
    entry, _ = report(nearest(images, labels), others, made, known, unseen)
    assert entry["copies"] == 1 and entry["share_of_copies"] == 0.05
    (named,) = entry["named"]
    assert (named["image"], named["training_frame"], named["flipped"]) == ("s4", "t9", True)
    assert named["correlation"] > 0.99 and not named["own_label"]
    assert entry["closest"][0] == named and len(entry["closest"]) == 8
    assert sentence(entry).startswith("1 of the 20 ")
    assert "match one closer than any of real frames never trained on does." in sentence(entry)
    few = entry | {"doubles_among_real": [{}] * 2}
    assert "never trained on does (but for 2 of these that are copies themselves)." in sentence(few)
    unclear = {way: found | {"closest_held_out": found["threshold"] + 0.01} for way, found in entry["ways"].items()}
    assert "closer than real frames never trained on do by chance." in sentence(entry | {"ways": unclear})
    honest_entry, _ = report(nearest(*(array[:20] for array in honest)), others, made, known, unseen)
    assert sentence(honest_entry).startswith("None of the 20")


def test_frames_of_the_same_patient_do_not_count_where_they_are_barred(training):
    prints = fingerprints(*training, CAMUS)
    known = Nearest(with_layouts(*training, CAMUS), ["a"] * 30 + ["b"] * 30, torch.device("cpu"))
    free, barred = known(prints), known(prints, other_than=["a"] * 30 + ["b"] * 30)
    assert (free[:, 0, 1] == np.arange(60)).all()
    assert (barred[:30, 0, 1] >= 30).all() and (barred[30:, 0, 1] < 30).all()


def test_images_without_a_ventricle_or_pattern_have_no_upright_fingerprint():
    label = np.full((1, 64, 64), 2, np.uint8)
    prints = fingerprints(np.full((1, 64, 64), 80, np.uint8), label, CAMUS)
    assert not prints.any()


def test_nearest_in_features_counts_what_is_closer_than_any_held_out_frame():
    training = np.eye(4, dtype=np.float32) * 10
    held_out = training[:2] + np.float32(1)
    synthetic = np.stack([training[0] + 0.1, training[1] + 5]).astype(np.float32)
    found = nearest_in_features(synthetic, held_out, training)
    assert found["closer_than_closest_held_out"] == 0.5
    assert found["closest_held_out"] == pytest.approx(2) and found["closest_synthetic"] == pytest.approx(0.2, abs=1e-3)


def test_distances_in_features_are_in_standard_deviations_of_the_real_frames():
    """A feature a thousand times as large as the others counts as they do."""
    generator = np.random.default_rng(0)
    training, held_out, made = (generator.normal(size=(count, 3)).astype(np.float32) for count in (20, 12, 15))

    def found(scale: np.ndarray) -> dict:
        sides = []
        for features in (training, held_out, made):
            tables = {"encoder": features * scale + 7, "nearest": np.full((len(features), 2, 3), 0.1)}
            sides.append(Measured([Frame(f"f{i}", "", "", f"p{i}", "", "") for i in range(len(features))], tables))
        real = Real(sides[0] + sides[1], sides[0], sides[1], None, None)
        return judge_copies(real, sides[2])[0]["features"]

    deviations = np.concatenate([training, held_out]).std(0)
    distances = np.linalg.norm((made[:, None] - training[None]) / deviations, axis=-1).min(1)
    for scale in (np.ones(3, np.float32), np.array([1, 1000, 0.1], np.float32)):
        assert found(scale)["closest_synthetic"] == pytest.approx(distances.min(), rel=1e-3)
        assert found(scale)["median_synthetic"] == pytest.approx(np.median(distances), rel=1e-3)

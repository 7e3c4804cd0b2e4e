"""Cases found, paired, checked and decoded; batches and augmentation that depend on their address alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import center_of_mass

from cases import Case, find_cases, metadata_file
from command import UserError
from dataset import load_cases, read_annotation, read_image, resize_annotation, resize_image
from loader import EpochBatches, make_loader, worker_count
from transforms import augment, training_transform

CPU = torch.device("cpu")


def test_pairs_by_name_and_what_metadata_knows(hearts):
    cases = find_cases(str(hearts), "testing")
    assert [case.stem for case in cases] == sorted(case.stem for case in cases)
    assert all(case.image.name == case.annotation.name for case in cases)
    first = cases[0]
    assert (first.patient, first.view, first.phase, first.image_quality) == ("patient0001", "2CH", "ED", "Good")
    assert first.extent_mm == (pytest.approx(120), pytest.approx(105))
    known = {case.view: case.clinical for case in cases if case.patient == "patient0001"}
    assert known == {"4CH": (56, None, None), "2CH": (None, None, None)}


def test_plain_folder_and_pattern_lead_to_the_same(hearts):
    assert find_cases(f"{hearts}/%s/", "training") == find_cases(str(hearts), "training")
    assert metadata_file("/data/%s/") == metadata_file("/data")
    assert str(metadata_file("/data/%s_small")) == "/data/metadata.csv"


def test_without_metadata_the_name_tells_patient_view_and_phase(make_folder, tmp_path):
    folder = make_folder(tmp_path / "data", {"testing": 1})
    (folder / "metadata.csv").unlink()
    case = find_cases(str(folder), "testing")[1]
    assert (case.patient, case.view, case.phase, case.extent_mm) == ("patient0001", "2CH", "ES", None)


def test_hidden_and_foreign_files_are_passed_over(make_folder, tmp_path):
    folder = make_folder(tmp_path / "data", {"testing": 1})
    expected = find_cases(str(folder), "testing")
    for name in (".hidden.png", "._patient.png", "Thumbs.db", "notes.txt"):
        (folder / "images" / "testing" / name).write_bytes(b"no image")
    (folder / "annotations" / "testing" / "folder.png").mkdir()
    assert find_cases(str(folder), "testing") == expected


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_grey_values_of_every_kind_of_png(tmp_path, mode):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).convert(mode).save(tmp_path / "image.png")
    assert np.array_equal(read_image(tmp_path / "image.png"), grey)


def test_class_values_of_every_kind_of_png(tmp_path):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4) % 4
    palette = Image.fromarray(labels, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for name, image in (("grey", Image.fromarray(labels)), ("palette", palette)):
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_annotation(tmp_path / f"{name}.png"), labels)
    Image.fromarray(labels).convert("RGB").save(tmp_path / "rgb.png")
    assert np.array_equal(read_annotation(tmp_path / "rgb.png"), labels)
    palette.convert("RGB").save(tmp_path / "colours.png")
    with pytest.raises(UserError, match="is a colour image"):
        read_annotation(tmp_path / "colours.png")


def test_mean_and_std_are_those_of_all_pixels(hearts):
    case_set = load_cases(find_cases(str(hearts), "training"), 64, 4, cache_gb=1)
    grey = case_set.arrays[0] / 255
    assert case_set.mean_std() == (pytest.approx(grey.mean()), pytest.approx(grey.std()))


def test_training_images_of_one_grey_value_are_told_before_the_first_step(train, make_folder, tiny, tmp_path, capsys):
    data = make_folder(tmp_path / "data", {"training": 1, "validation": 1})
    for path in (data / "images" / "training").iterdir():
        Image.fromarray(np.full((64, 64), 40, np.uint8)).save(path)
    assert train("--data-dir", data, "--output-dir", tmp_path / "o", *tiny, "--epochs", 1) == 2
    told = f"error: {data / 'images' / 'training'}: the training images all have one grey value, 40"
    assert capsys.readouterr().err.startswith(told)
    assert not list((tmp_path / "o").glob("*.*"))


def test_images_are_resized_by_area_and_labels_keep_their_values(hearts):
    cases = find_cases(str(hearts), "testing")
    full, half = (load_cases(cases, size, 4, cache_gb=1) for size in (64, 32))
    means = full[0][0].reshape(32, 2, 32, 2).astype(float).mean((1, 3))
    assert np.abs(half[0][0] - means).max() <= 0.5
    blocks = np.moveaxis(full[0][1].reshape(32, 2, 32, 2), 1, 2).reshape(32, 32, 4)
    counts = (blocks[..., None] == np.arange(4)).sum(2)
    most = counts.max(-1)
    alone = (counts == most[..., None]).sum(-1) == 1
    assert 0 < (~alone).sum() < 0.1 * alone.size
    assert (half[0][1] == counts.argmax(-1))[alone].all()
    assert (np.take_along_axis(counts, half[0][1][..., None], -1)[..., 0] == most).all()


@pytest.mark.parametrize("shape", [(96, 24), (24, 96)])
def test_an_axis_that_shrinks_is_averaged_though_the_other_grows(shape):
    stripes = np.zeros(shape, np.uint8)
    (stripes if shape[0] > shape[1] else stripes.T)[::2] = 200
    assert (resize_image(stripes, 48) == 100).all()


def disc(shape: tuple[int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (np.hypot(rows - centre[0], columns - centre[1]) < radius).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "size"), [((224, 224), 128), ((256, 256), 64), ((256, 256), 128), ((549, 389), 128), ((128, 128), 224)]
)
def test_resized_labels_and_images_lie_where_the_frame_does(shape, size):
    """Discs of known centre and radius, between pixels: where they come to lie, and how large."""
    rng, scale = np.random.default_rng(0), np.array([size / n for n in shape])
    shifts, areas = [], []
    for _ in range(200):
        centre, radius = np.array(shape) * rng.uniform(0.4, 0.6, 2), shape[1] * rng.uniform(0.15, 0.3)
        label = disc(shape, centre, radius)
        expected = (centre + 0.5) * scale - 0.5
        resized = {"label": resize_annotation(label, size), "image": resize_image(255 * label, size) / 255}
        shifts.append([center_of_mass(found) - expected for found in resized.values()])
        areas.append([found.sum() / (np.pi * radius**2 * scale.prod()) for found in resized.values()])
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.01  # in output pixels
    assert np.abs(np.mean(areas, axis=0) - 1).max() < 0.008  # at whole ratios, where shares are often equal


def test_memory_or_files_workers_or_none_give_the_same_batches(hearts):
    cases = find_cases(str(hearts), "training")
    in_memory, from_files = load_cases(cases, 32, 4, cache_gb=1), load_cases(cases, 32, 4, cache_gb=0)
    assert in_memory.arrays is not None
    assert from_files.arrays is None
    options = {"pin_memory": False, "seed": 3, "shuffle": True, "augmented": True}
    loaders = [make_loader(s, 5, CPU, num_workers=2, **options) for s in (in_memory, from_files)]
    assert [loader.num_workers for loader in loaders] == [0, min(2, worker_count(2, False, CPU))]
    for epoch in (1, 2):
        for loader in loaders:
            loader.batch_sampler.epoch = epoch
        for (image, label), (same_image, same_label) in zip(*loaders, strict=True):
            assert torch.equal(image, same_image)
            assert torch.equal(label, same_label)


def test_each_epoch_has_every_case_once_in_batches_of_equal_size():
    batches = EpochBatches(cases=33, batch_size=16, seed=0, shuffle=True)
    orders = []
    for batches.epoch in (1, 2, 1):
        found = list(batches)
        assert [len(batch) for batch in found] == [11, 11, 11]
        assert Counter(i for batch in found for _, i in batch) == Counter(range(33))
        orders.append(found)
    assert orders[0] == orders[2]
    assert [i for b in orders[0] for _, i in b] != [i for b in orders[1] for _, i in b]
    straight = EpochBatches(cases=4, batch_size=2, seed=0, shuffle=False)
    assert list(straight) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]


@pytest.mark.parametrize("updates", [1, 2, 3, 5, 7])
def test_epochs_of_so_many_updates_go_through_the_same_passes(updates):
    whole = EpochBatches(cases=33, batch_size=16, seed=0, shuffle=True)
    passes = [batch for whole.epoch in range(1, 8) for batch in whole]
    cut = EpochBatches(cases=33, batch_size=16, seed=0, shuffle=True, updates=updates)
    assert len(cut) == updates
    found = [batch for cut.epoch in range(1, 4) for batch in cut]
    assert found == passes[: 3 * updates]
    cut.epoch = 3  # as a run that is resumed
    assert list(cut) == passes[2 * updates : 3 * updates]


def test_a_pass_draws_oversampled_cases_several_times_each_augmented_anew(hearts):
    plain = load_cases(find_cases(str(hearts), "training"), 32, 4, cache_gb=1)
    loader = make_loader(plain.oversampled(8, 3), 4, CPU, 0, False, seed=3, shuffle=True)
    assert len(loader) == 8  # batches of 4: 8 x 3 + 8 draws
    keys = {image.tobytes(): index for index, (image, _) in enumerate(plain)}
    loader.batch_sampler.epoch = 1
    drawn = [keys[image.numpy().tobytes()] for images, _ in loader for image in images]
    assert Counter(drawn) == Counter({index: 3 if index < 8 else 1 for index in range(16)})
    assert drawn != sorted(drawn)
    augmented = make_loader(plain.oversampled(1, 3), 1, CPU, 0, False, seed=3, augmented=True)
    augmented.batch_sampler.epoch = 1
    first = [image for images, _ in augmented for image in images][:3]  # of the same case: unshuffled
    assert len({image.numpy().tobytes() for image in first}) == 3
    for one in (plain, plain.oversampled(16, 1)):
        assert list(one.drawn) == list(range(16))
        assert one.digest == plain.digest
    assert len({plain.oversampled(count, 3).digest for count in (7, 8)} | {plain.digest}) == 3


def test_augmentation_depends_on_its_seed_alone_and_maps_both_alike():
    transform = training_transform()
    label = np.zeros((64, 64), np.uint8)
    label[16:40, 20:36], label[40:52, 24:32] = 2, 3
    image = np.array([0, 0, 255, 255], np.uint8)[label]  # gamma leaves 0 and 255 as they are
    results = [augment(transform, image, label, (0, 1, 1, index)) for index in range(40)]
    for moved, mask in results:
        assert np.isin(mask, [0, 2, 3]).all()
        assert ((moved > 127) == (mask > 0)).mean() > 0.97
    again = augment(transform, image, label, (0, 1, 1, 7))
    assert np.array_equal(again[0], results[7][0])
    assert np.array_equal(again[1], results[7][1])
    assert len({mask.tobytes() for _, mask in results}) > 15


def test_every_problem_is_listed_by_file(make_folder, tmp_path):
    folder = make_folder(tmp_path / "data", {"training": 1})
    annotations = sorted((folder / "annotations" / "training").iterdir())
    annotations[0].write_bytes(b"broken")
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(annotations[1])
    Image.fromarray(np.full((64, 64), 4, np.uint8)).save(annotations[2])
    with pytest.raises(UserError) as raised:
        load_cases(find_cases(str(folder), "training"), 32, 4, cache_gb=1)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("3 cases cannot be used")
    assert "prepare_inference4segmentation" in lines[0]
    for line, file, text in zip(
        lines[1:], annotations, ["cannot be read", "(64, 64), its annotation (10, 12)", "class 4"], strict=False
    ):
        assert file.name in line
        assert text in line


def test_a_case_without_files_cannot_be_read(tmp_path):
    case = Case("a", tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(UserError, match="1 cases cannot be used"):
        load_cases([case], 32, 4, cache_gb=1)

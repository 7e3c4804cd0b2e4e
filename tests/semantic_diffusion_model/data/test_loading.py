"""Which sample is when and what is done to it: by address, whatever the ranks, workers and memory."""

from collections import Counter
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from command import UserError
from config import Settings
from guided_diffusion.data.batches import BatchSource, Requests, worker_count
from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples, TrainingStream
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs.distributed import World


@pytest.fixture(scope="module")
def examples(tiny):
    settings = tiny()
    return Examples(find_pairs(settings, ["training"]), settings)


def test_requests_cover_each_sample_once_on_any_number_of_ranks():
    def samples(ranks: int, microbatch: int, first: int = 0) -> list[int]:
        batch = 12 // ranks
        per_step = -(-batch // microbatch)
        found = []
        for rank in range(ranks):
            requests = Requests(first, 12, rank * batch, batch, microbatch)
            for start, count in islice(requests, 3 * per_step):
                assert count <= microbatch
                found += range(start, start + count)
        return sorted(found)

    for ranks, microbatch in ((1, 12), (1, 5), (2, 6), (2, 4), (4, 1), (12, 1)):
        assert samples(ranks, microbatch) == list(range(36)), (ranks, microbatch)
    assert samples(2, 4, first=24) == list(range(24, 60))


def test_an_epoch_has_each_example_once_and_epochs_differ(examples, tiny):
    stream = TrainingStream(examples, tiny(seed=3))
    n = len(examples)
    epochs = [[stream.order(e * n + i) for i in range(n)] for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [TrainingStream(examples, tiny(seed=4)).order(i) for i in range(n)]


def test_deterministic_train_takes_the_files_in_order(examples, tiny):
    stream = TrainingStream(examples, tiny(deterministic_train=True))
    assert [stream.order(g) for g in range(12)] == [*range(10), 0, 1]


def test_augmentation_has_the_asked_rates_and_one_does_not_move_another(examples, tiny):
    both = TrainingStream(examples, tiny(random_flip=True, drop_rate=0.25, random_crop=True))
    drawn = [both.augmentation(g) for g in range(2000)]
    assert np.mean([flip for flip, _, _ in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([drop for _, drop, _ in drawn]) == pytest.approx(0.25, abs=0.04)
    sizes = np.array([box[2] - box[0] for _, _, box in drawn])
    assert sizes.min() >= 0.8 and sizes.max() <= 1
    assert sizes.mean() == pytest.approx(0.9, abs=0.01)
    assert all(0 <= left <= right <= 1 and 0 <= top <= bottom <= 1 for _, _, (left, top, right, bottom) in drawn)
    flips = TrainingStream(examples, tiny(random_flip=True))
    assert [flips.augmentation(g)[0] for g in range(200)] == [flip for flip, _, _ in drawn[:200]]
    neither = TrainingStream(examples, tiny())
    assert Counter(neither.augmentation(g) for g in range(100)) == {(False, False, None): 100}


def dense(condition) -> torch.Tensor:
    return condition.maps_at((16, 16), torch.float32)


def test_a_flip_turns_image_label_and_edges_and_a_dropped_label_is_zero(pictures, tiny):
    settings = tiny(random_flip=True, drop_rate=0.5, no_instance=False, modulation="dense")
    examples = Examples(find_pairs(settings, ["training"]), settings)
    stream = TrainingStream(examples, settings)
    batch = stream[(0, 12)]
    condition = dense(batch.condition)
    seen = set()
    for g in range(12):
        flip, drop, _ = stream.augmentation(g)
        image, label, edges = examples.get(stream.order(g))
        expected = torch.cat([torch.nn.functional.one_hot(label.long(), 5).permute(2, 0, 1), edges[None]]).float()
        if flip:
            image, expected = image.flip(-1), expected.flip(-1)
        assert torch.equal(batch.image[g], image)
        assert torch.equal(condition[g], expected * (not drop))
        seen.add((flip, drop))
    assert len(seen) == 4


def test_memory_and_files_give_the_same(tiny):
    settings = tiny(no_instance=False)
    pairs = find_pairs(settings, ["training"])
    from_files, from_memory = Examples(pairs, settings), Examples(pairs, settings)
    assert from_memory.held() == []
    from_memory.hold(shared=False)
    assert from_memory.images.shape == (10, 1, 16, 16)  # grey pictures once, not three times
    assert sum(tensor.nbytes for tensor in from_memory.held()) <= from_memory.bytes_needed()
    for index in range(len(pairs)):
        for one, other in zip(from_files.get(index), from_memory.get(index), strict=True):
            assert torch.equal(one, other)


def test_colour_pictures_stay_coloured_in_memory(tmp_path, tiny):
    colour = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    for folder, array in (("images", colour), ("labels", np.zeros((16, 16), np.uint8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "x.png")
    settings = tiny(datadir=str(tmp_path), dataset_mode="folder")
    examples = Examples(find_pairs(settings, ["training"]), settings)
    examples.hold(shared=False)
    assert np.array_equal(examples.get(0)[0].permute(1, 2, 0).numpy(), colour)


def test_wrong_class_values_and_broken_files_are_all_found_before_training(tmp_path, tiny):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name, value in (("a", 0), ("b", 7), ("c", 1)):
            Image.fromarray(np.full((16, 16), value, np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "images/c.png").write_bytes(b"broken")
    settings = tiny(datadir=str(tmp_path), dataset_mode="folder")
    examples = Examples(find_pairs(settings, ["training"]), settings)
    for look in (examples.check, lambda: examples.hold(shared=False)):
        with pytest.raises(UserError) as caught:
            look()
        assert "2 of 3" in str(caught.value)
        assert "b.png has the value 7; classes are 0 to 4" in str(caught.value)
        assert "c.png cannot be read" in str(caught.value)


def test_a_wrong_value_that_the_whole_map_loses_and_a_crop_would_find_is_found_before(tmp_path, tiny):
    label = np.zeros((64, 64), np.uint8)
    label[0, 0] = 200
    for folder, picture in (("images", np.zeros_like(label)), ("labels", label)):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    for crop in (False, True):
        settings = tiny(datadir=str(tmp_path), dataset_mode="folder", random_crop=crop)
        examples = Examples(find_pairs(settings, ["training"]), settings)
        with pytest.raises(UserError, match="a.png has the value 200") if crop else nullcontext():
            examples.check()


def test_worker_processes_give_the_same_data_as_none(tiny, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    settings = tiny(random_flip=True, drop_rate=0.3, batch_size_train=4, microbatch=3, num_workers=2)
    pairs = find_pairs(settings, ["training"])
    examples = Examples(pairs, settings)
    examples.hold(shared=True)
    world = World()
    assert worker_count(settings, world) == 2
    source = BatchSource(examples, settings, world, first_sample=8, microbatch=settings.microbatch)
    stream = TrainingStream(Examples(pairs, settings), settings)
    for step in range(3):
        microbatches = source.next_step()
        assert [len(microbatch) for microbatch in microbatches] == [3, 1]
        for microbatch in microbatches:
            expected = stream[(microbatch.first, len(microbatch))]
            assert torch.equal(microbatch.image, expected.image)
            assert torch.equal(microbatch.condition.palette, expected.condition.palette)
            for size, level in expected.condition.levels.items():
                assert str(level) == str(microbatch.condition.levels[size])
        assert microbatches[0].first == 8 + 4 * step
    assert source.seconds_waited > 0


def test_workers_are_capped_at_the_cores_of_a_rank(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    many = Settings(num_workers=10)
    assert worker_count(many, World()) == 7
    assert worker_count(many, World(size=4, local_size=4, cores=2)) == 1
    assert worker_count(many, World(device=torch.device("cuda"))) == 8
    assert worker_count(Settings(num_workers=0), World()) == 0


def test_images_are_scaled_to_minus_one_to_one(examples):
    microbatch = examples.microbatch([0, 3])
    x_start = microbatch.x_start()
    assert torch.equal(x_start, microbatch.image.float() / 127.5 - 1)
    assert x_start.min() >= -1 and x_start.max() <= 1
    assert torch.equal((x_start * 127.5 + 127.5).round().byte(), microbatch.image)


@pytest.mark.parametrize("size", [(26, 32), (33, 20), (64, 23)])
def test_cityscapes_of_any_aspect_go_through_the_network(tmp_path, tiny, size):
    for folder, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        (tmp_path / folder / "train").mkdir(parents=True)
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / folder / "train" / f"x_{ending}.png")
    settings = tiny(datadir=str(tmp_path), dataset_mode="cityscapes", channel_mult="1,1,2", attention_resolutions="8")
    microbatch = Examples(find_pairs(settings, ["training"]), settings).microbatch([0])
    with torch.no_grad():
        made = build_network(settings)(microbatch.x_start(), torch.zeros(1, dtype=torch.int64), microbatch.condition)
    assert made.shape[2:] == microbatch.image.shape[2:] and min(made.shape[2:]) == 16


def test_an_unconditional_model_has_no_condition(tiny):
    settings = tiny(class_cond=False)
    examples = Examples(find_pairs(settings, ["training"]), settings)
    assert TrainingStream(examples, settings)[(0, 2)].condition is None

"""Which images a job makes, in which order and under which names; and by which sampler and timesteps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import UserError
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.inputs import check_inputs
from guided_diffusion.sampling.plan import choose_schedule, plan_items

TRAINING = [f"p{i}" for i in range(1, 11)]
VALIDATION = [f"v{i}" for i in range(1, 6)]


def stems(settings) -> list[str]:
    return [item.stem for item in plan_items(settings)]


@pytest.mark.parametrize("changes", [{"num_samples": 0}, {"all": True, "num_samples": 7}])
def test_one_for_each_label_map_training_first_in_natural_order(tiny, changes):
    assert stems(tiny(**changes)) == TRAINING + VALIDATION
    assert stems(tiny(inference_on_train=False, **changes)) == VALIDATION


def test_exactly_as_many_as_asked_and_further_rounds_have_a_suffix(tiny):
    assert stems(tiny(num_samples=7)) == TRAINING[:7]
    wanted = stems(tiny(num_samples=32, inference_on_train=False))
    assert wanted == [f"{v}_r{r}" if r else v for r in range(7) for v in VALIDATION][:32]
    items = plan_items(tiny(num_samples=32))
    assert [item.index for item in items] == list(range(32)) and len({item.stem for item in items}) == 32
    assert items[31].stem == "p2_r2" and items[31].round == 2 and items[31].pair.stem == "p2"


def test_the_suffix_is_one_that_the_preparation_parses(tiny):
    import names  # of data_preparation

    name = names.parse_stem(f"patient0001_2CH_ED_training_3_{stems(tiny(num_samples=16))[15].split('_')[1]}")
    assert (name.repeat, name.round) == (3, 1)


def label_maps(folder: Path, *names: str) -> str:
    for name in names:
        path = folder / "labels" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (16, 16)).save(path)
    return str(folder)


def test_label_maps_named_like_further_rounds_share_no_name_with_them(tiny, tmp_path):
    common = {"datadir": label_maps(tmp_path, "scan", "scan_r1", "scan_", "scan_r1_r2"), "dataset_mode": "folder"}
    maps = ["scan", "scan_", "scan_r1", "scan_r1_r2"]
    wanted = stems(tiny(num_samples=16, **common))
    assert wanted[:4] == maps and len(set(wanted)) == 16
    assert wanted[4:8] == [f"{name}__r1" for name in maps]  # scan_r1 is there
    assert wanted[8:12] == [f"{name}__r2" for name in maps]  # as is scan_r1_r2
    assert wanted[12:] == [f"{name}_r3" for name in maps]  # as ever
    for count in range(1, 16):
        assert stems(tiny(num_samples=count, **common)) == wanted[:count]


def test_a_mark_grows_until_no_label_map_has_the_name(tiny, tmp_path):
    common = {"datadir": label_maps(tmp_path, "scan", "scan_r1", "scan__r1"), "dataset_mode": "folder"}
    wanted = stems(tiny(num_samples=6, **common))
    assert sorted(wanted[3:]) == ["scan___r1", "scan__r1___r1", "scan_r1___r1"] and len(set(wanted)) == 6


def test_a_shuffled_order_is_that_of_the_seed_and_complete(tiny):
    shuffled = stems(tiny(num_samples=0, deterministic_test=False))
    assert sorted(shuffled) == sorted(TRAINING + VALIDATION) and shuffled != TRAINING + VALIDATION
    assert shuffled == stems(tiny(num_samples=0, deterministic_test=False))
    assert shuffled != stems(tiny(num_samples=0, deterministic_test=False, seed=1))


def test_image_and_label_are_paired_by_name_and_labels_alone_are_enough(tiny, tmp_path):
    for kind, names in {"images": ("b", "c"), "sector_annotations": ("a", "b")}.items():
        (tmp_path / kind / "training").mkdir(parents=True)
        for name in names:
            Image.new("L", (16, 16)).save(tmp_path / kind / "training" / f"{name}.png")
    a, b = plan_items(tiny(datadir=str(tmp_path), num_samples=0))
    assert a.stem == "a" and a.pair.image_path is None
    assert b.stem == "b" and b.pair.image_path.endswith("images/training/b.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datadir": ""}, "--datadir is needed"),
        ({"datadir": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_jobs_that_cannot_be(tiny, changes, words):
    with pytest.raises(UserError, match=words):
        plan_items(tiny(**changes))


def test_a_folder_without_label_maps_is_told(tiny, tmp_path):
    with pytest.raises(UserError, match=r"sector_annotations/training: no such folder, or no pictures in it"):
        plan_items(tiny(datadir=str(tmp_path)))


def test_all_label_maps_are_checked_before_the_first_is_used(tiny, pictures, tmp_path, capsys):
    folder = tmp_path / "sector_annotations" / "training"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(folder / "seven.png")
    Image.fromarray(np.full((40, 24), 3, np.uint8)).save(folder / "large.png")
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(folder / "colour.png")
    (folder / "broken.png").write_bytes((folder / "large.png").read_bytes()[:60])
    settings = tiny(datadir=str(tmp_path), num_samples=0)
    with pytest.raises(UserError) as told:
        check_inputs(plan_items(settings), settings, World())
    text = str(told.value)
    assert "seven.png has the value 7; classes are 0 to 4" in text
    assert "colour.png is a colour image" in text and "broken.png is truncated" in text and "large.png" not in text
    for name in ("seven", "colour", "broken"):
        (folder / f"{name}.png").unlink()
    hashes = check_inputs(plan_items(settings), settings, World())
    assert list(hashes) == ["large"]
    assert capsys.readouterr().out.count("1 label maps are brought to 16 x 16 pixels (nearest neighbour)") == 1


def test_real_pictures_and_instance_maps_are_checked_with_the_label_maps(tiny, tmp_path):
    for kind in ("images", "labels", "instances"):
        (tmp_path / kind).mkdir()
        for stem in ("deep", "clear", "torn", "turned", "small", "good"):
            Image.new("L", (16, 16)).save(tmp_path / kind / f"{stem}.png")
    Image.fromarray(np.full((16, 16), 300, np.uint16)).save(tmp_path / "images/deep.png")
    Image.new("RGBA", (16, 16)).save(tmp_path / "images/clear.png")
    (tmp_path / "instances/torn.png").write_bytes(b"\x89PNG")
    Image.new("L", (8, 24)).save(tmp_path / "instances/turned.png")
    Image.new("L", (24, 8)).save(tmp_path / "images/turned.png")
    Image.new("L", (32, 32)).save(tmp_path / "images/small.png")
    settings = tiny(datadir=str(tmp_path), dataset_mode="folder", num_samples=0, no_instance=False)
    with pytest.raises(UserError) as told:
        check_inputs(plan_items(settings), settings, World())
    lines = str(told.value).splitlines()[1:]
    assert len(lines) == 5 and "deep.png has more than 8 bits" in lines[1] and "clear.png is transparent" in lines[0]
    aspect = "labels/turned.png: 16 x 16 pixels (height x width), another aspect than its"
    assert "instances/torn.png" in lines[2]
    assert f"{aspect} image, 8 x 24" in lines[3] and f"{aspect} instance map, 24 x 8" in lines[4]
    for stem in ("deep", "clear", "torn", "turned"):
        (tmp_path / f"labels/{stem}.png").unlink()
        (tmp_path / f"instances/{stem}.png").unlink()
    assert list(check_inputs(plan_items(settings), settings, World())) == ["good", "small"]


def test_label_maps_that_come_out_at_several_sizes_are_refused(tiny, tmp_path):
    folder = tmp_path / "gtFine" / "train" / "town"
    folder.mkdir(parents=True)
    for stem, width in (("a", 32), ("b", 48)):
        Image.new("L", (width, 32)).save(folder / f"{stem}_gtFine_labelIds.png")
    settings = tiny(datadir=str(tmp_path), dataset_mode="cityscapes", num_samples=0)
    with pytest.raises(UserError, match=r"different sizes .*16 x 16 \(a\), 16 x 24 \(b\)"):
        check_inputs(plan_items(settings), settings, World())


def test_names_that_no_image_can_have_are_refused_at_once(tiny, tmp_path):
    names = "a\\b", "x" * 251, "\u00e9" * 124
    settings = tiny(datadir=label_maps(tmp_path, *names), dataset_mode="folder")
    for count, wrong in ((3, 2), (6, 5)):  # a further round makes the third too long
        settings = dataclasses.replace(settings, num_samples=count)
        with pytest.raises(UserError) as told:
            plan_items(settings)
        lines = str(told.value).splitlines()[1:]
        assert len(lines) == wrong and "is no name of an image" in lines[0]
    assert all("has more than 250 bytes" in line for line in lines if "a\\b" not in line)


# --- Samplers and timesteps -------------------------------------------------------------------------------------------


def choice(tiny, **changes) -> tuple:
    schedule = choose_schedule(tiny(**changes))
    return schedule.sampler, len(schedule.timesteps), schedule.timesteps[0], schedule.timesteps[-1], schedule.spacing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("ddpm", 1000, 0, 999, "published")),
        ({"num_steps": 20}, ("unipc", 20, 6, 999, "logsnr")),
        ({"num_steps": 100}, ("ddpm", 100, 0, 999, "even")),
        ({"num_steps": 100, "spacing": "logsnr"}, ("ddpm", 100, 0, 999, "logsnr")),
        ({"num_steps": 8, "spacing": "even", "sampler": "dpmpp_2m"}, ("dpmpp_2m", 8, 0, 999, "even")),
        (
            {"num_steps": 8, "spacing": "karras", "sampler": "dpmpp_2m_sde"},
            ("dpmpp_2m_sde", 8, 24, 999, "karras"),
        ),
        ({"num_steps": 250, "sampler": "ddim"}, ("ddim", 250, 0, 999, "even")),
        ({"num_steps": 250, "sampler": "unipc"}, ("unipc", 250, 0, 999, "logsnr")),
        ({"num_steps": 1000, "sampler": "dpmpp_2m"}, ("dpmpp_2m", 1000, 0, 999, "logsnr")),
        ({"num_steps": 250, "sampler": "unipc", "spacing": "even"}, ("unipc", 250, 0, 999, "even")),
        ({"use_ddim": True, "timestep_respacing": "ddim50"}, ("ddim", 50, 0, 980, "published ddim50")),
        ({"use_ddim": True, "num_steps": 50}, ("ddim", 50, 1, 999, "logsnr")),
        ({"timestep_respacing": "10,10,20"}, ("ddpm", 40, 0, 999, "published 10,10,20")),
        ({"timestep_respacing": "1"}, ("ddpm", 1, 999, 999, "published 1")),
        ({"num_steps": 1}, ("unipc", 1, 999, 999, "logsnr")),
    ],
    ids=str,
)
def test_which_sampler_visits_which_timesteps(tiny, changes, expected):
    assert choice(tiny, **changes) == expected


@pytest.mark.parametrize(
    ("changes", "doubtful"),
    [
        ({"num_steps": 10, "spacing": "even"}, True),
        ({"timestep_respacing": "20", "sampler": "dpmpp_2m"}, True),
        ({"num_steps": 250, "sampler": "unipc", "spacing": "even"}, False),
        ({"num_steps": 10, "spacing": "even", "sampler": "ddim"}, False),
        ({"timestep_respacing": "20"}, False),
        ({"num_steps": 10}, False),
    ],
    ids=str,
)
def test_few_even_steps_of_a_solver_of_higher_order_are_warned_of(tiny, changes, doubtful):
    """Their errors: test_samplers.py, and performance.md on a network."""
    doubt = choose_schedule(tiny(**changes)).doubt
    assert bool(doubt) == doubtful
    if doubtful:
        assert "\n" not in doubt and doubt.startswith("warning: ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 20, "timestep_respacing": "20"}, "both choose the timesteps"),
        ({"spacing": "logsnr"}, "spacing logsnr belongs to num_steps"),
        ({"spacing": "even", "timestep_respacing": "20"}, "spacing even belongs to num_steps"),
        ({"num_steps": 1001}, "1001 sampling steps: must be from 1 to the 1000"),
        ({"use_ddim": True, "sampler": "dpmpp_2m"}, "use_ddim and --sampler dpmpp_2m disagree"),
        ({"eta": 0.5, "num_steps": 20}, "eta belongs to the sampler ddim"),
        ({"timestep_respacing": "ddim999"}, "no whole-number stride"),
        ({"timestep_respacing": "ten"}, "must be a count"),
    ],
    ids=str,
)
def test_choices_that_contradict_each_other(tiny, changes, words):
    with pytest.raises(UserError, match=words):
        choose_schedule(tiny(**changes))

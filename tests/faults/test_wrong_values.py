"""Values of the wrong type or range in flags, checkpoints, JSON and states: one line, exit 2."""

import json
import math
from pathlib import Path

import pytest
import torch
from launching import DEEP, NETWORK, words_of

from command import UserError
from config import Settings
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.runs import launch
from guided_diffusion.runs.checkpoints import plain_state_dict, read_checkpoint, write_torch
from schema import check_settings, known_settings, parse_json, schema_of, shown

TRAIN, SAMPLE = "image_train", "image_sample"
PROMISE = "one line, exit 2, nothing written"
NO_NUMBERS = ["nan", "inf", "-1", str(2**70), "1e999"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint of ours, of a small network with random weights."""
    torch.manual_seed(0)
    settings = Settings(**NETWORK)
    network = build_network(settings)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("weights")
    write_torch(str(folder), "model000001.pt", plain_state_dict(network.state_dict(), settings))
    return folder / "model000001.pt"


def told_in_one_line(capfd, name: str, flags: list[str]) -> str:
    """Run a command of the diffusion model in this process; its one line of error."""
    main = __import__(name).main
    code = launch.run(main, Settings, args=flags)
    said = capfd.readouterr().err
    assert code == 2, said
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 500, said
    return said


# --- Flags ------------------------------------------------------------------------------------------------------------

WRONG_FLAGS = [
    *[("diffusion_steps", value) for value in ("0", "10000000000", str(2**70))],
    *[("num_res_blocks", value) for value in ("0", "1000000")],
    *[("lr", value) for value in NO_NUMBERS if value != str(2**70)],
    *[("s", value) for value in ("nan", "inf")],
    *[("eta", value) for value in NO_NUMBERS if value != str(2**70)],
    *[("seed", value) for value in (str(2**70), "1.5")],
    *[("ema_rate", value) for value in ("nan", "0.9,inf", "1e999", "0.9," * 1000, "")],
    *[("channel_mult", value) for value in ("nan", "1,inf", "1e300", "0", "-1", "1," * 1000)],
    *[("attention_resolutions", value) for value in ("nan", "1e999", "0")],
    *[("num_channels", value) for value in ("0", "1000000000")],
    *[("img_size", value) for value in ("0", "-16", "1000000000")],
    *[("num_classes", value) for value in ("0", "257")],
    *[("num_workers", value) for value in ("-1", "1000000")],
    *[("timestep_respacing", value) for value in ("9" * 5000, "ddim" + "9" * 5000, "²", "1,,2")],
    *[("drop_rate", value) for value in ("nan", "1.5")],
    *[("vb_weight", value) for value in ("nan", "-1")],
    *[("stop_grace", value) for value in ("nan", "inf")],
    ("num_samples", "-1"),
    ("num_steps", "-1"),
    ("batch_size_test", "-1"),
]


def test_flags_of_training_and_sampling(capfd, datadir, tmp_path, weights, survived):
    survived("flags out of range", PROMISE, len(WRONG_FLAGS))
    for name, value in WRONG_FLAGS:
        sampling = name in ("s", "eta", "num_samples", "num_steps", "batch_size_test")
        common = NETWORK | {"datadir": datadir, "savedir": tmp_path / "out", "results_dir": tmp_path / "out"}
        flags = words_of(**common | ({"resume_checkpoint": weights} if sampling else {}) | {name: value})
        assert name in told_in_one_line(capfd, SAMPLE if sampling else TRAIN, flags), (name, value)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_defaults_are_in_their_ranges_and_every_number_has_one():
    check_settings(Settings())
    schema = schema_of(Settings).model_json_schema()["properties"]
    for name, about in schema.items():
        if about.get("type") == "integer" and "enum" not in about:
            assert "minimum" in about and {"maximum", "exclusiveMaximum"} & about.keys(), name


def test_flags_of_the_other_folders(survived):
    from augment_camus_labels import AugmentSettings
    from settings import TestSettings, TrainSettings

    wrong = [(TrainSettings, {"data_dir": "x"}, name, value) for name, value in WRONG_SEGMENTATION]
    wrong += [(TestSettings, {"data_dir": "x", "model_path": Path("y")}, "std", math.nan)]
    wrong += [(AugmentSettings, {"data_folder": Path(), "save_folder": Path()}, "n_repeat", 10**10)]
    survived("flags out of range", PROMISE, len(wrong))
    for kind, common, name, value in wrong:
        check_settings(kind(**common))
        with pytest.raises(UserError, match=f"--{name.replace('_', '.')} .*: input should be") as caught:
            check_settings(kind(**common | {name: value}))
        assert "\n" not in str(caught.value)


WRONG_SEGMENTATION = [
    *[("lr", value) for value in (math.nan, math.inf, -1.0)],
    *[("min_lr", value) for value in (math.nan,)],
    *[("cache_gb", value) for value in (math.nan, -1.0, math.inf)],
    *[("img_size", value) for value in (0, 31, 10**9)],
    *[("num_classes", value) for value in (1, 257)],
    *[("epochs", value) for value in (0, 2**70)],
    *[("seed", value) for value in (-1, 2**70)],
    ("decoder_channels", (64, 0)),
]


# --- Checkpoints and the JSON beside them -----------------------------------------------------------------------------

WRONG_SETTINGS = [
    *[("img_size", value) for value in ("x", None, [], DEEP, 2**70, -16, math.nan, 1.5)],
    *[("num_res_blocks", value) for value in (10**6, math.inf, "many", {})],
    *[("diffusion_steps", value) for value in (10**10, 0, "1e3", True + 0.5)],
    *[("channel_mult", value) for value in (["a"], {"a": 1}, 7)],
    *[("noise_schedule", value) for value in ("quadratic", 3, DEEP)],
    *[("learn_sigma", value) for value in ("perhaps", 2, [])],
    *[("num_head_channels", value) for value in ("9" * 5000, -2)],
]
WRONG_ABOUT = [
    {"settings": 3},
    {"settings": DEEP},
    {"settings": {}, "drop_rate": math.nan},
    {"settings": {}, "drop_rate": "x"},
    {"settings": {7: 7}},
]


def test_what_checkpoints_say_of_themselves(tmp_path, weights, survived):
    wrong = [{"settings": {name: value}} for name, value in WRONG_SETTINGS if value is not None] + WRONG_ABOUT
    survived("wrong values in a checkpoint", PROMISE, len(wrong))
    content = torch.load(weights, weights_only=True)
    for about in wrong:
        content._metadata[""] = about
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UserError) as caught:
            read_checkpoint(str(tmp_path / "a.pt"))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500, about


WRONG_JSON = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{",
    b"",
    b"\xff\xfe",
    b"3",
    b"[]",
    b'{"TRAIN": {"IMG_SIZE": NaN}}',
    b'{"TRAIN": {"IMG_SIZE": 1e999}}',
    b'{"TRAIN": {"IMG_SIZE": [[[]]]}}',
    b'{"TRAIN": {"DIFFUSION": {"DIFFUSION_STEPS": 1180591620717411303424}}}',
    b'{"TRAIN": {"DIFFUSION": {"NOISE_SCHEDULE": {"A": {}}, "LEARN_SIGMA": "no idea"}}}',
    b'{"TRAIN": {"NUM_RES_BLOCKS": ' + b"9" * 10_000 + b"}}",
]


def test_the_json_beside_a_checkpoint(capfd, tmp_path, datadir, weights, survived):
    survived("wrong values in train_test_config.json", PROMISE, len(WRONG_JSON))
    torch.save(dict(torch.load(weights, weights_only=True)), tmp_path / "published.pt")
    flags = words_of(datadir=datadir, resume_checkpoint=tmp_path / "published.pt", results_dir=tmp_path / "out")
    for text in WRONG_JSON:
        (tmp_path / "train_test_config.json").write_bytes(text)
        told_in_one_line(capfd, SAMPLE, flags)
        assert not (tmp_path / "out").exists()


def test_a_good_json_is_read_in_the_types_of_the_settings():
    tree = parse_json(b'\xef\xbb\xbf{"A": {"IMG_SIZE": "64", "LEARN_SIGMA": 1, "S": 2}, "OTHER": [1]}', "x")
    assert known_settings(Settings, {k.lower(): v for k, v in tree["A"].items()}, "x") == {
        "img_size": 64,
        "learn_sigma": True,
        "s": 2.0,
    }


def bad_tensors(content: dict) -> list[dict]:
    """State dicts like `content` that hold something no network can take."""
    name = "out.2.bias"
    good = content[name]
    bad = [good * math.nan, good * math.inf, good.to_sparse(), good.to(torch.complex64), None, 3, "x", [good]]
    bad += [good[:1].expand(10**12), torch.quantize_per_tensor(good, 0.1, 0, torch.qint8)]
    return [dict(content) | {name: value} for value in bad] + [dict(content) | {7: good}, {name: good}, {}]


def test_weights_that_no_network_can_take(tmp_path, weights, survived):
    wrong = bad_tensors(torch.load(weights, weights_only=True))
    survived("weights that are not finite, or no weights", "refused by each command that reads them", 2 * len(wrong))
    from checkpoint import read_checkpoint as read_segmentation

    for content in wrong:
        torch.save(content, tmp_path / "a.pt")
        for read in (read_checkpoint, read_segmentation):
            with pytest.raises(UserError) as caught:
                read(tmp_path / "a.pt" if read is read_segmentation else str(tmp_path / "a.pt"))
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_weights_of_other_shapes_are_told_by_two_names_and_the_count(capfd, tmp_path, datadir, weights, survived):
    survived("a checkpoint of other shapes", "two names, the count, exit 2")
    content = torch.load(weights, weights_only=True)
    settings = dict(content._metadata[""]["settings"])
    content._metadata[""] = {"settings": settings | {"num_channels": 64}}
    torch.save(content, tmp_path / "a.pt")
    flags = words_of(datadir=datadir, resume_checkpoint=tmp_path / "a.pt", results_dir=tmp_path / "out", device="cpu")
    said = told_in_one_line(capfd, SAMPLE, flags)
    with torch.device("meta"):
        own = build_network(Settings(**settings | {"num_channels": 64})).state_dict()
    differing = sum(own[name].shape != value.shape for name, value in content.items())
    assert f"{differing} tensors differ" in said and f"and {differing - 2} more" in said
    assert said.count("the network's is") == 2


def test_json_written_by_a_run_is_read_back(tmp_path):
    from guided_diffusion.runs.settings_file import from_published_json, to_published_json

    settings = Settings(**NETWORK, seed=7)
    tree = parse_json(json.dumps(to_published_json(settings)).encode(), "x")
    known = {name: value for name, value in from_published_json(tree).items() if value is not None}
    assert Settings(**known_settings(Settings, known, "x")) == settings


def test_wrong_values_are_shown_short():
    for value in ("x" * 10**6, DEEP, 10**10_000, list(range(10**5)), "a\nb"):
        text = shown(value)
        assert len(text) <= 61 and "\n" not in text

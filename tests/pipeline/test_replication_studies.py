"""The table's numbers by hand, the plan of commands, and the two studies on what replicate.sh leaves."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "pipelines"), str(ROOT / "benchmarks")]
import check_commands  # noqa: E402
import few_patients  # noqa: E402
import nearest_frames  # noqa: E402
import replication  # noqa: E402
import replication_table  # noqa: E402
import teaching  # noqa: E402

from camus import write_subgroups  # noqa: E402
from command import UserError  # noqa: E402

STRUCTURES = list(replication_table.STRUCTURES)
TEXTS = {"view": "2CH", "phase": "ED", "image_quality": "Good", "unit": "mm", "grid": "400x300", "diagonal": 160.0}


def write_run(folder: Path, kind: str, seed: int, dice: np.ndarray) -> None:
    """A run on three patients with two frames each, whose Dice is `dice` (6,) for each structure."""
    run = folder / f"segmentation_{kind}_{seed}"
    run.mkdir(parents=True)
    rows = []
    for i, value in enumerate(dice):
        row = {"stem": f"patient{i // 2:04d}_2CH_{'ED' if i % 2 else 'ES'}_testing", "patient": f"patient{i // 2:04d}"}
        metrics = {f"{s}_{m}": value if m == "dice" else 1.0 for s in STRUCTURES for m in ("dice", "hd95", "hd", "msd")}
        rows.append(row | TEXTS | metrics)
    with open(run / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[::-1] if seed else rows)  # in whatever order
    (run / "summary.json").write_text(json.dumps({"epoch": 3 + seed}))
    (run / "settings.json").write_text(json.dumps({"img_size": 64, "epochs": 9, "epoch_updates": 7, "batch_size": 16}))


def test_the_table_means_over_seeds_and_frames_and_pairs_over_patients(tmp_path):
    rng = np.random.default_rng(0)
    dice = {kind: rng.uniform(0.7, 0.9, (2, 6)) for kind in replication_table.KINDS}
    for kind, of_kind in dice.items():
        for seed in (0, 1):
            write_run(tmp_path, kind, seed, of_kind[seed])
    (tmp_path / ".done").mkdir()
    (tmp_path / ".done" / "times").write_text("3600\t1\tTrain\n1800\t2\tSample\n1800\t1\tTrain\n")
    write_manifest(tmp_path / "results" / "all_views")
    text = replication_table.table(str(tmp_path), "cpu64")
    patients = {kind: of_kind.reshape(2, 3, 2).mean(axis=(0, 2)) for kind, of_kind in dice.items()}
    for kind, values in patients.items():
        error = values.std(ddof=1) / np.sqrt(3)
        assert f"{values.mean():.3f} ({error:.3f})" in text, kind
    for kind in ("synthetic", "both"):
        line = next(line for line in text.splitlines() if line.startswith(f"{kind} - real, left atrium"))
        assert f"{(patients[kind] - patients['real']).mean():+.4f}" in line
    assert "2.0 hours" in text and "5400 s  Train" in text
    assert "both: 9 epochs of 7 updates, batches of 16, the best by its own validation split: 3, 4" in text
    assert "all_views: 7 synthetic frames by ema_0.999_006000.pt, 10 steps of unipc, on cpu" in text
    assert re.search(r"^mean of the three .* 0\.886$", text, re.M)


def test_a_structure_that_a_patient_lacks_is_told(tmp_path):
    """Undefined in both frames of the first patient, for the atrium alone: its mean would be of other patients."""
    write_run(tmp_path, "real", 0, np.full(6, 0.8))
    path = tmp_path / "segmentation_real_0" / "metrics.csv"
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("la_dice")
    for i in (1, 2):
        cells = lines[i].split(",")
        lines[i] = ",".join([*cells[:place], "", *cells[place + 1 :]])
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(UserError, match="in neither label map of any frame of some patient"):
        replication_table.dice_differences([path.parent], [path.parent])


def test_a_table_of_other_seeds_is_refused(tmp_path):
    for kind in ("real", "synthetic"):
        write_run(tmp_path, kind, 0, np.full(6, 0.8))
    with pytest.raises(UserError, match="needed are the same for all"):
        replication_table.table(str(tmp_path), "cpu64")


def test_seeds_that_were_asked_for_or_are_there_of_each_kind_make_the_table(tmp_path):
    for kind in replication_table.KINDS:
        for seed in (0, 10) if kind == "both" else (0, 2, 10):
            write_run(tmp_path, kind, seed, np.full(6, 0.8 + seed / 1000))
    runs = replication_table.runs_of(tmp_path)
    assert [[run.name.rpartition("_")[2] for run in of_kind] for of_kind in runs.values()] == [["0", "10"]] * 3
    text = replication_table.table(str(tmp_path), "cpu64")
    assert "synthetic: also evaluated with seed 2, not in this table of seed 0 10" in text and "both: also" not in text
    one = replication_table.table(str(tmp_path), "cpu64", [10])
    assert re.search(r"^left atrium +(0\.810 .*){3}", one, re.M) and "one seed of each" in one
    with pytest.raises(UserError, match="both 0 10; needed are the same"):
        replication_table.runs_of(tmp_path, [2])


def write_manifest(folder: Path) -> None:
    folder.mkdir(parents=True)
    columns = {"checkpoint": "diffusion/ema_0.999_006000.pt", "sampler": "unipc", "steps": "10", "device": "cpu"}
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["stem", *columns])
        writer.writeheader()
        writer.writerows({"stem": f"{i}"} | columns for i in range(7))


def test_p_values_are_adjusted_over_all_lines_that_are_shown(tmp_path):
    """Holm's of eight (two kinds, three structures and their mean): not of one kind alone, nor of distances too."""
    rng = np.random.default_rng(0)
    patients = 30
    base = rng.uniform(0.7, 0.8, (patients, 2))
    for kind, gain in (("real", 0), ("synthetic", -0.004), ("both", 0.003)):
        for seed in (0, 1):
            write_run(tmp_path, kind, seed, (base + gain + rng.normal(0, 0.004, base.shape)).ravel())
    runs = {
        kind: [tmp_path / f"segmentation_{kind}_{seed}" for seed in (0, 1)] for kind in ("real", "synthetic", "both")
    }
    against = [replication_table.dice_differences(runs["real"], runs[kind]) for kind in ("synthetic", "both")]
    shown = [one for by_structure in against for one in by_structure.values()]
    assert len(shown) == 8 and len({one.p for one in shown}) == 2  # all structures have the same Dice here
    replication_table.adjust_together(shown)
    small, large = sorted({one.p for one in shown})
    assert {one.adjusted_p for one in shown if one.p == small} == {min(1, 8 * small)}
    assert {one.adjusted_p for one in shown if one.p == large} == {min(1, max(4 * large, 8 * small))}


def test_another_seed_is_no_effect(tmp_path):
    """Every patient gains alike from the better seed of one side: patients alone would call that certain."""
    base = np.random.default_rng(0).uniform(0.7, 0.8, 60)
    for kind, gains in (("real", (0, 0)), ("synthetic", (0.01, -0.002))):
        for seed, gain in enumerate(gains):
            write_run(tmp_path, kind, seed, base + gain)
    runs = {kind: [tmp_path / f"segmentation_{kind}_{seed}" for seed in (0, 1)] for kind in ("real", "synthetic")}
    found = replication_table.dice_differences(runs["real"], runs["synthetic"])["la"]
    assert found.second.mean() - found.first.mean() == pytest.approx(0.004)
    assert super(type(found), found).interval() == pytest.approx((0.004, 0.004))
    assert found.interval() == pytest.approx(
        (-0.002, 0.01)
    )  # a quarter of the resamplings has the one seed, or the other
    alone = replication_table.dice_differences(runs["real"][:1], runs["synthetic"][:1])["la"]
    assert np.isnan(alone.p) and replication_table.difference_line("x", alone).split()[-2:] == ["-", "-"]


def test_kinds_that_were_asked_for_stand_in_the_table_with_their_control(tmp_path):
    rng = np.random.default_rng(0)
    for kind in (*replication_table.KINDS, "then_real", "real_again"):
        for seed in (0, 1):
            write_run(tmp_path, kind, seed, rng.uniform(0.7, 0.9, 6))
    write_run(tmp_path, "oversampled", 1, rng.uniform(0.7, 0.9, 6))  # of other seeds: not to be compared
    text = replication_table.table(str(tmp_path), "cpu64")
    assert "then_real - real_again, left atrium" in text and "then_real - real, left atrium" in text
    assert "real_again: real frames, from the network of real ones on" in text
    assert "oversampled: also evaluated with seed 1, not in this table of seed 0 1" in text
    assert text.count("oversampled") == 1
    assert text.count("- real_again") == 4 and re.search(r"^then_real_1 ( +0\.\d{4}){4}$", text, re.M)


def test_the_nearest_frame_is_of_the_same_view_and_measured_inside_the_cone():
    rng = np.random.default_rng(0)
    names = [f"patient000{i}_{view}_training" for i in (1, 2) for view in ("2CH_ED", "4CH_ED")]
    training = nearest_frames.Training({name: rng.integers(0, 256, (32, 32), dtype=np.uint8) for name in names})
    cone = np.zeros((32, 32), bool)
    cone[8:24, 8:24] = True
    changed = training.images[names[2]].copy()
    changed[0, 0] ^= 255  # too far from the cone to matter
    distance, near = training.nearest(changed, training.stems[0], cone)
    assert str(near) == names[2] and distance == pytest.approx(0, abs=1e-4)
    distance, near = training.nearest(changed, training.stems[1], cone)
    assert near.view == "4CH_ED" and distance > 10


def write_frames(folder: Path, stems: list[str], rng: np.random.Generator, labels: bool = False) -> None:
    folder.mkdir(parents=True)
    for stem in stems:
        picture = rng.integers(1, 256, (16, 16), dtype=np.uint8)
        if labels:
            picture = np.zeros_like(picture)
            picture[4:12, 4:12] = 1
        cv2.imwrite(str(folder / f"{stem}.png"), picture)


def test_validation_frames_are_measured_inside_their_cone_and_views_without_frames_told(tmp_path):
    """Their difference outside it does not count, black or not."""
    rng = np.random.default_rng(0)
    views, results = tmp_path / "views/all_views/images", tmp_path / "results/all_views"
    write_frames(views / "training", ["patient0001_2CH_ED_training"], rng)
    write_frames(views / "validation", ["patient0002_2CH_ED_validation"], rng)
    cones = tmp_path / "sector/all_views_sector/sector_annotations/validation"
    write_frames(cones, ["patient0002_2CH_ED_validation"], rng, labels=True)
    for name, labels in (("samples", False), ("labels", True)):
        write_frames(results / name, ["patient0001_2CH_ED_training_0"], rng, labels)
    _, (measured,), training = nearest_frames.search(tmp_path, 1, 0)
    held_out = nearest_frames.read_image(views / "validation" / "patient0002_2CH_ED_validation.png")
    inside = np.s_[4:12, 4:12]
    difference = (nearest_frames.blurred(held_out) - training.blurred[0])[inside]
    assert measured == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-5)
    for name, labels in (("samples", False), ("labels", True)):
        write_frames(tmp_path / "results/other" / name, ["patient0001_4CH_ED_training_0"], rng, labels)
    with pytest.raises(UserError, match="views/all_views has no training frame of 4CH_ED"):
        nearest_frames.search(tmp_path, 2, 0)


def test_a_release_of_few_patients_whose_lists_were_being_written_is_made_again(tmp_path, monkeypatch):
    for name in (f"patient{i:04d}" for i in range(8)):
        (tmp_path / "camus/database_nifti" / name).mkdir(parents=True)
    people = {
        "training": [f"patient{i:04d}" for i in range(6)],
        "validation": ["patient0006"],
        "testing": ["patient0007"],
    }
    write_subgroups(tmp_path / "camus", people)
    settings = few_patients.BenchmarkSettings(camus=tmp_path / "camus", work=tmp_path / "work")

    def killed(root, patients):
        write_subgroups(root, {"training": patients["training"]})
        raise KeyboardInterrupt

    monkeypatch.setattr(few_patients, "write_subgroups", killed)
    with pytest.raises(KeyboardInterrupt):
        few_patients.make_release(settings, 3)
    monkeypatch.undo()
    root = few_patients.make_release(settings, 3)
    assert root == few_patients.make_release(settings, 3)
    assert (root / "database_split/subgroup_testing.txt").read_text() == "patient0007\n"
    assert sorted(path.name for path in root.iterdir()) == ["database_nifti", "database_split"]


def test_few_patients_are_drawn_within_one_another_with_their_own_validation():
    names = [f"patient{i:04d}" for i in range(400)]
    drawn = {count: few_patients.choose(names, count, 0) for count in (2, 10, 25, 100)}
    for count, splits in drawn.items():
        assert len({*splits["training"], *splits["validation"]}) == count
        assert len(splits["validation"]) == max(1, count // 5)
    everyone = {count: {*splits["training"], *splits["validation"]} for count, splits in drawn.items()}
    assert everyone[10] < everyone[25] < everyone[100]
    assert few_patients.choose(names, 10, 1) != drawn[10]
    with pytest.raises(UserError, match="from 2 to the 400"):
        few_patients.choose(names, 401, 0)


def test_a_wrong_command_of_a_plan_is_named(tmp_path, capsys):
    good = ["mpiexec", "-np", "2", "python", "semantic_diffusion_model/image_train.py", "--datadir", "a b"]
    wrong = [
        [*good, "--num_chanels", "32"],
        [*good, "--num_channels", "33"],
        ["python", "echo_segmentation/runner.py", "--data-dir", "d", "--lr", "1e-9"],
        ["python", "echo_segmentation/train.py"],
    ]
    plan = tmp_path / "commands.txt"
    plan.write_text(shlex.join(good) + "\n")
    assert check_commands.main(str(plan)) == 0
    assert "1 commands read" in capsys.readouterr().out
    plan.write_text("".join(shlex.join(words) + "\n" for words in [good, *wrong]))
    assert check_commands.main(str(plan)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and errors[0].startswith("error: command 2") and "--num_channels" in errors[0]


def test_what_decides_takes_checkpoints_on_the_way(tmp_path):
    folder = tmp_path / "diffusion" / "all_views"
    folder.mkdir(parents=True)
    labels = tmp_path / "augmented/all_views_augmented/sector_annotations/training"
    labels.mkdir(parents=True)
    for name in range(9):
        (labels / f"{name}.png").touch()
    settings = replication.BenchmarkSettings(tmp_path, tmp_path, frames=(3, 9), steps=(50, 10), usual_frames=4)
    with pytest.raises(UserError, match="no finished run of replicate.sh at cpu64 or cpu128, with seed 0"):
        replication.ReplicationRun(tmp_path, tmp_path, 0)
    write_run(tmp_path, "real", 0, np.full(6, 0.8))
    write_manifest(tmp_path / "results" / "all_views")
    for step in (2500, 3331, 5000, 20000):  # the second was left by an interruption
        (folder / f"ema_0.999_{step:06d}.pt").touch()
    run = replication.ReplicationRun(tmp_path, tmp_path, 0)
    axes = replication.plan(settings, run)
    assert [point.length for point in axes["length"]] == [2500, 5000, 20000]
    assert [point.steps for point in axes["steps"]] == [10, 50]
    assert {point.length for axis in ("frames", "steps") for point in axes[axis]} == {20000}
    assert {point.frames for axis in ("steps", "length") for point in axes[axis]} == {4}
    assert [point.frames for point in axes["frames"]] == [3, 9]
    settings.lengths = (3000,)
    with pytest.raises(UserError, match="no checkpoint after 3000 steps; there are 2500, 3331, 5000, 20000"):
        replication.plan(settings, run)
    settings.lengths, settings.frames = (), (10,)
    with pytest.raises(UserError, match="frames 10: the run has 9 label maps"):
        replication.plan(settings, run)


def test_weights_are_known_by_the_folder_they_are_given_in(tmp_path):
    """A link by its own, whatever it points to; two of one name are refused."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ema.pt").write_bytes(b"weights")
    links = [tmp_path / name / "ema.pt" for name in ("v_0.1", "v_0.5", "other/v_0.5")]
    for link in links:
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / "run" / "ema.pt")
    assert teaching.named(tuple(links[:2])) == {"v_0.1": links[0], "v_0.5": links[1]}
    with pytest.raises(UserError, match=r"v_0\.5.+ lies in a folder of the same name"):
        teaching.named(tuple(links))
    with pytest.raises(UserError, match="no such file"):
        teaching.named((tmp_path / "none" / "ema.pt",))

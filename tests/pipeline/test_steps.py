"""The steps of the pipelines: each done once, taken up after an end too soon, with the time that is left."""

import subprocess
from pathlib import Path

STEPS = Path(__file__).resolve().parents[2] / "pipelines" / "steps.sh"


def pipeline(folder: Path, text: str) -> subprocess.CompletedProcess:
    (folder / ".done").mkdir(exist_ok=True)
    script = f"set -euo pipefail\nOUT='{folder}' LAST=2 ANOTHER=SOME_FOLDER\nsource '{STEPS}'\n{text}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)


def test_a_step_is_done_once_and_refused_with_other_words(tmp_path):
    once = f"step 1 Write bash -c 'echo more >> \"{tmp_path}/out\"'"
    assert "[1/2] Write" in pipeline(tmp_path, once).stdout
    again = pipeline(tmp_path, once)
    assert again.returncode == 0 and "done before" in again.stdout
    assert (tmp_path / "out").read_text() == "more\n"
    other = pipeline(tmp_path, "step 1 Write echo other")
    assert other.returncode == 2 and "give another SOME_FOLDER" in other.stderr
    assert "left" not in again.stdout  # nothing was said of what it takes


def test_commands_can_be_pasted_and_notes_made_before_hold(tmp_path):
    command = "step 1 Write printf '%s,' 'my folder/a' plain/b,c=1 '' '$HOME'"
    first = pipeline(tmp_path, command).stdout
    shown = next(line[2:] for line in first.splitlines() if line.startswith("$ "))
    assert shown == "printf %s, 'my folder/a' plain/b,c=1 '' '$HOME'"
    again = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout
    assert first.endswith(again) and again == "my folder/a,plain/b,c=1,,$HOME,"
    note = tmp_path / ".done" / "1"
    assert note.read_text() == f"{shown}\n{shown}" and "done before" in pipeline(tmp_path, command).stdout
    note.write_text(shown)
    assert "done before" in pipeline(tmp_path, command).stdout
    note.write_text("printf %s, my folder/a plain/b,c=1  $HOME")
    assert "done before" in pipeline(tmp_path, command).stdout
    assert pipeline(tmp_path, command.replace("plain", "other")).returncode == 2


def test_what_shares_the_work_and_where_the_folder_lies_change_nothing(tmp_path):
    def train(folder: Path, ranks: int, batch: int, *more: str) -> subprocess.CompletedProcess:
        shared = f"-np {ranks} a.py --batch_size_train {8 // ranks} --num_workers {ranks}"
        flags = f"--data '{folder}/x y' --steps {batch} {' '.join(more)}"
        return pipeline(folder, f"NAME=training step 1 Train echo {shared} {flags}")

    folder, moved = tmp_path / "a b", tmp_path / "elsewhere"
    folder.mkdir()
    assert train(folder, 2, 100).returncode == 0
    folder.rename(moved)
    assert "done before" in train(moved, 4, 100, "--device cpu", "--save_interval 9").stdout
    note = moved / ".done" / "training"
    words, _, essence = note.read_text().partition("\n")
    note.write_text(f"{words}\n{essence} --save_interval 2500")  # of a time when this flag counted
    assert "done before" in train(moved, 4, 100, "--save_interval 9").stdout
    other = train(moved, 2, 200)
    assert other.returncode == 2 and "made with other settings (then 100, now 200)" in other.stderr
    assert other.stderr.count("\n") == 1


def test_a_step_that_got_a_name_is_found_by_its_title(tmp_path):
    assert pipeline(tmp_path, "step 7 'A title' echo a --np 2").returncode == 0
    assert "[9/2] A title" in (again := pipeline(tmp_path, "NAME=named step 9 'A title' echo a --np 3").stdout)
    assert "done before" in again
    assert pipeline(tmp_path, "NAME=named step 9 'A title' echo b").returncode == 2
    assert pipeline(tmp_path, "NAME=named step 7 'Another title' echo b").returncode == 0  # of no such number


def test_a_folder_is_where_the_user_stands(tmp_path):
    def where(here: str, given: str) -> str:
        return pipeline(tmp_path, f"cd '{tmp_path}'; standing_in '{here}' '{given}' standard").stdout

    (tmp_path / "mine").mkdir()
    assert where("/", "") == where(tmp_path, "") == "standard"
    assert where("/", "/x y") == "/x y"
    assert where(tmp_path / "mine", "a b") == f"{tmp_path}/mine/a b"
    assert where(tmp_path, "a") == "a"  # a path as short as it was given, where it means the same


def test_a_step_that_fails_ends_all_and_is_done_again(tmp_path):
    wrong = pipeline(tmp_path, "step 1 Fail false\necho never")
    assert wrong.returncode == 1 and "never" not in wrong.stdout
    assert not (tmp_path / ".done" / "1").exists()
    assert (tmp_path / ".done" / "times").read_text().split("\t")[1:] == ["1", "Fail\n"]
    assert pipeline(tmp_path, "step 1 Fail true").returncode == 0


def test_a_training_that_was_begun_goes_on_with_the_same_words_alone(tmp_path):
    def training(command: str, steps: int) -> subprocess.CompletedProcess:
        made = f"{tmp_path}/run of mine/model{steps}"
        return pipeline(tmp_path, f"MADE='{made}' step 1 Train bash -c '{command}' _ '{made}' --steps {steps}")

    go_on = 'if [ -e "${1%/*}" ]; then touch "$1"; else mkdir "${1%/*}"; fi'  # stopped the first time, well
    refused = training("exit 2", 9)
    assert refused.returncode == 2 and "other settings" not in refused.stderr
    stopped = training(go_on, 5)  # nothing had been made with the words that were refused
    assert stopped.returncode == 1 and "run the same command again" in stopped.stderr
    for steps in (3, 9):
        other = training(go_on, steps)
        assert other.returncode == 2 and "made with other settings" in other.stderr
    assert sorted(path.name for path in (tmp_path / ".done").iterdir()) == ["1.begun", "times"]
    done = training(go_on, 5)
    assert done.returncode == 0 and (tmp_path / "run of mine" / "model5").exists()
    assert sorted(path.name for path in (tmp_path / ".done").iterdir()) == ["1", "times"]
    assert "done before" in training(go_on, 5).stdout and training(go_on, 3).returncode == 2


def test_the_time_left_follows_the_pace(tmp_path):
    chain = "chain() { COST=7200 step 1 'Long one' true; COST=3600 step 2 'The other' echo 'it is' \"$1\"; }\n"
    planned = pipeline(tmp_path, f"{chain}MODE=plan chain a")
    assert planned.stdout == "" and not (tmp_path / ".done" / "1").exists()
    commands = (tmp_path / "commands.txt").read_text().splitlines()
    assert commands == ["'true'", "'echo' 'it is' 'a'"]
    told = pipeline(tmp_path, f"{chain}MODE=plan chain a; chain a").stdout
    # The first step took no second instead of two hours: so the second will not take its hour either.
    assert "[1/2] Long one\n$ true\nabout 3 h 00 min left" in told
    assert "about 0 h 04 min left\nit is a" in told
    # What an interrupted step has done is not to be done again.
    (tmp_path / ".done" / "2").unlink()
    (tmp_path / ".done" / "times").write_text("7200\t1\tLong one\n2700\t2\tThe other\n")
    assert "about 0 h 15 min left" in pipeline(tmp_path, f"{chain}MODE=plan chain a; chain a").stdout
    # Half of what was expected, with what was spent before it was interrupted.
    (tmp_path / ".done" / "2").unlink()
    (tmp_path / ".done" / "times").write_text("1800\t1\tLong one\n1800\t1\tLong one\n")
    assert "about 0 h 32 min left" in pipeline(tmp_path, f"{chain}MODE=plan chain a; chain a").stdout

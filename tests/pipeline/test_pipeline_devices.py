"""Where the pipelines compute, and what make hands on to them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("pipeline", ["demo", "replicate"])
def test_what_is_meant_for_a_cpu_stays_there_unless_a_gpu_is_asked_for(pipeline):
    """Two ranks would share the one GPU of a workstation, which is refused."""
    text = (ROOT / "pipelines" / f"{pipeline}.sh").read_text().replace("\\\n", " ")
    commands = re.findall(r"image_(?:train|sample)\.py .*", text)
    assert len(commands) == 2 and all('"${DEVICE[@]}"' in command for command in commands)
    name = f"{pipeline.upper()}_DEVICE"
    assert f'choose_device {name} "${{{name}:=cpu}}"' in text
    for value, flags in (("cpu", "--device cpu --gpu cpu"), ("cuda", "--device cuda --gpu cuda:0")):
        program = f'OUT=o; source pipelines/steps.sh; choose_device {name} {value}; echo "${{DEVICE[@]}}" "${{GPU[@]}}"'
        done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == flags + "\n"


def test_make_takes_folder_scale_and_dry_run():
    words = ["make", "-n", "replicate", "CAMUS=/a folder", "SCALE=cpu128", "DRY=1"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'pipelines/replicate.sh "/a folder" cpu128 --dry-run' in told

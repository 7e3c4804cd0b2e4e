"""What is for GPUs, without one: the benchmark runs through with a tiny network, and the kernels compile."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_and_ends_with_its_table():
    log = ROOT / "benchmarks" / "results" / "gpu.txt"
    before = log.read_bytes() if log.exists() else None
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table = done.stdout.split(" s in all\n")[1].strip().splitlines()
    expected = {"convolution": 2, "modulation": 4, "training": 8, "sampling": 9}
    assert Counter(line.split()[0] for line in table[1:]) == expected
    assert "left out" not in done.stdout
    assert (log.read_bytes() if log.exists() else None) == before


def test_the_kernels_compile_for_a_gpu_that_is_not_there():
    pytest.importorskip("triton", reason="PyTorch came without Triton")
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels.py"), "--capability", "90", "--no-log"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if " registers, " in line]
    defined = (ROOT / "semantic_diffusion_model" / "guided_diffusion" / "network" / "modulation_kernels.py").read_text()
    launched = re.findall(r"^def ([a-z]\w+)\(", defined, re.MULTILINE)
    assert {line.split()[0] for line in lines} == set(launched)
    for line in lines:
        assert int(re.search(r"(\d+) bytes beside", line)[1]) < 64  # more would make each program wait for memory

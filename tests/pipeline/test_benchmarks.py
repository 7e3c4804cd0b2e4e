"""The benchmark that needs a GPU at least runs through, with a tiny network, wherever it is tried."""

import subprocess
import sys
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
    assert [line.split()[0] for line in table].count("training") == 7
    assert [line.split()[0] for line in table].count("sampling") == 7
    assert "left out" not in done.stdout
    assert (log.read_bytes() if log.exists() else None) == before

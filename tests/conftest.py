"""Shared by all tests: the three script folders on sys.path, the real data and the golden vectors, and the table of the
faults that were survived."""

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
# The background of a shell ignores Ctrl-C, and whatever the tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch  # noqa: E402  (reads these)

# Without a GPU its kernels are tested in Triton's interpreter, which must be chosen before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path[:0] = [str(ROOT / folder) for folder in ("data_preparation", "semantic_diffusion_model", "echo_segmentation")]


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent: it holds data that cannot be part of the repository")
    return path


@pytest.fixture(scope="session")
def camus() -> Path:
    """Real CAMUS data (shared/camus/README.md)."""
    return _shared("camus")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Golden vectors (shared/reference/README.md)."""
    return _shared("reference")


def pytest_collection_modifyitems(items) -> None:
    """Refuse tests named after a set: its order, and so the name, differs between the workers of `make test`."""
    for item in items:
        for value in item.callspec.params.values() if hasattr(item, "callspec") else ():
            if isinstance(value, set | frozenset) and value and str(value) in item.name:
                raise pytest.UsageError(f"{item.nodeid} is named after a set: give a tuple, or ids")


def pytest_terminal_summary(terminalreporter) -> None:
    """The table of docs/reliability.md; here, since the process that gathers the workers' reports reads only this."""
    totals: dict[tuple[str, str], list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when != "call":
                continue
            for name, value in report.user_properties:
                if name == "fault":
                    total = totals.setdefault(tuple(value[:2]), [0, 0])
                    total[0] += value[2] * (outcome == "passed")
                    total[1] += value[2]
    if not totals:
        return
    terminalreporter.write_line("")
    terminalreporter.write_line("| fault | promise | survived |")
    terminalreporter.write_line("| --- | --- | ---: |")
    for (fault, promise), (good, tried) in sorted(totals.items()):
        terminalreporter.write_line(f"| {fault} | {promise} | {good} of {tried} |")

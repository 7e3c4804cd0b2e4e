"""Paths shared by all tests: the three script folders on sys.path, the real data and the golden vectors."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
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

"""Runs extract_camus_data, and finds files of releases."""

from pathlib import Path


def extract(run, source, out, *flags):
    return run("extract_camus_data", "--camus_data_folder", source, "--save_folder_path", out, *flags)


def one(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]

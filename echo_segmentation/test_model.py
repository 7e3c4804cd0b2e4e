"""Judge a segmentation network on real images as CAMUS judges, or compare two judged runs.

Written into --output-dir: metrics.csv, ejection_fraction.csv, summary.json, predictions/ and figures/.
"""

import sys

from cases import check_data_dir, find_cases
from command import UserError, run_command
from settings import TestSettings


def main(settings: TestSettings) -> None:
    """Check all that is cheap to check, then import what is slow, then judge."""
    settings.check()
    if settings.compare is not None:
        from comparison import compare

        print(compare(*settings.compare))
        return
    check_data_dir(settings.data_dir)
    if not settings.model_path.is_file():
        raise UserError(f"--model-path {settings.model_path}: no such file")
    cases = find_cases(settings.data_dir, settings.split)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    from testing import judge_checkpoint  # slow: torch, MONAI, segmentation-models-pytorch

    judge_checkpoint(settings, cases)


if __name__ == "__main__":
    sys.exit(run_command(main, TestSettings, description=__doc__))

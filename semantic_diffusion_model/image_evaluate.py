r"""Tell how good synthetic echoes are: what sets them apart from real frames, and whether they copy patients.

Example:
    python image_evaluate.py --real_dir ../data/sector/all_views_sector --synthetic_dir ../results \
        --output_dir ../evaluation --segmentation_model ../output/real/model.pth

Written are evaluation.json, evaluation.md (the tables, each with a sentence on how to read it) and figures/. What each
number means: docs/evaluation.md.
"""

import sys

from evaluation_settings import EvaluationSettings
from guided_diffusion.runs import launch


def main(settings: EvaluationSettings, given: set[str]) -> None:
    settings.check()
    from guided_diffusion.evaluation.job import run_evaluation  # after the command line is known to be right
    from guided_diffusion.runs import distributed

    run_evaluation(settings, distributed.start(settings.device))


if __name__ == "__main__":
    sys.exit(launch.run(main, EvaluationSettings, __doc__))

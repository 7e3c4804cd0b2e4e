r"""Average the weights of a training over another length than it did, once it is over.

Example:
    python image_average.py --savedir ./output --width 0.08 --save_as ./output/average_0.08.pt

The training must have kept two power-function averages (--ema_rate 0.9999,w0.05,w0.1): those in savedir are combined.
A wider average is smoother and lags behind more; which one draws best is to be tried.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from command import PathText
from config import NARROWEST, WIDEST
from guided_diffusion.runs import launch
from guided_diffusion.runs.environment import environment_rank
from schema import check_settings


@dataclass
class AverageSettings:
    savedir: PathText
    """Folder of the training."""
    save_as: PathText
    """File to write; a checkpoint as those beside it."""
    width: Annotated[float, Interval(ge=NARROWEST, le=WIDEST)] = 0.1
    """Spread of the average, as a share of the training: 0.1 averages over about the last fifth."""
    step: Annotated[int, Interval(ge=0, le=10**9)] = 0
    """Update that the average ends at; 0: the last one that is saved."""


def main(settings: AverageSettings, given: set[str]) -> None:
    check_settings(settings)
    if environment_rank()[1] > 1:
        from guided_diffusion.runs.world import AgreedError

        raise AgreedError("averages are made by one process: start it without a launcher")
    from guided_diffusion.training.averaging import write_average  # after the command line is known to be right

    write_average(settings.savedir, settings.save_as, settings.width, settings.step)


if __name__ == "__main__":
    sys.exit(launch.run(main, AverageSettings, __doc__))

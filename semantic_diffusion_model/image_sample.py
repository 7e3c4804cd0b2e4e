r"""Draw synthetic images for label maps with a trained semantic diffusion model.

Example:
    mpiexec -np 8 python3 ./image_sample.py --datadir ./data/2CH_ED_augmented --results_dir ./results_2CH_ED \
        --resume_checkpoint ./output/ema_0.9999_050000.pt --num_samples 2250
"""

import os
import sys

from command import UserError
from config import Settings
from guided_diffusion.runs import launch
from help_groups import SAMPLING_GROUPS


def main(settings: Settings, given: set[str]) -> None:
    if settings.is_train:
        raise UserError("is_train True: image_sample.py samples; image_train.py trains")
    from guided_diffusion.runs import distributed  # after the command line is known to be right
    from guided_diffusion.runs.environment import call_when_launcher_is_gone
    from guided_diffusion.sampling.job import run_sampling

    call_when_launcher_is_gone(lambda: os._exit(1))  # what is made is in the manifest; the next run goes on
    run_sampling(settings, given, distributed.start(settings.device))


if __name__ == "__main__":
    sys.exit(launch.run(main, Settings, __doc__, SAMPLING_GROUPS))

r"""Train a semantic diffusion model on images with label maps.

Example:
    mpiexec -np 8 python3 ./image_train.py --datadir ./data/2CH_ED_sector --savedir ./output \
        --batch_size_train 12 --lr_anneal_steps 50000 --save_interval 5000 --random_flip True
"""

import dataclasses
import sys

from command import UserError
from config import Settings
from guided_diffusion.runs import launch
from help_groups import TRAINING_GROUPS


def main(settings: Settings, given: set[str]) -> int:
    if "is_train" in given and not settings.is_train:
        raise UserError("is_train False: image_train.py trains; image_sample.py samples")
    from guided_diffusion.training.loop import train  # after the command line is known to be right

    return train(dataclasses.replace(settings, is_train=True), given)


if __name__ == "__main__":
    sys.exit(launch.run(main, Settings, __doc__, TRAINING_GROUPS))

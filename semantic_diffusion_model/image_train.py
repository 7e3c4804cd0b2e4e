"""Train a semantic diffusion model on images with label maps.

Example:
    mpiexec -np 8 python3 ./image_train.py --datadir ./data/2CH_ED_sector --savedir ./output \
        --batch_size_train 12 --lr_anneal_steps 50000 --save_interval 5000 --random_flip True
"""

import dataclasses
import sys

from command import UserError
from config import Settings
from guided_diffusion.runs import distributed
from guided_diffusion.training.training import train


def main(settings: Settings, given: set[str]) -> None:
    if "is_train" in given and not settings.is_train:
        raise UserError("is_train False: image_train.py trains; image_sample.py samples")
    train(dataclasses.replace(settings, is_train=True), given)


if __name__ == "__main__":
    sys.exit(distributed.run(main, Settings, __doc__))

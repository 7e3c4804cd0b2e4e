"""Augmentation of training images as in Echo from Noise: contrast, flip and an affine map, by albumentations."""

import os
import random

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would otherwise ask the network for its newest version

import albumentations
import cv2
import numpy as np

GAMMA = (0.5, 3.0)
ROTATION_DEGREES = (-10.0, 10.0)
SHIFT = (-0.2, 0.2)  # fraction of the image size, drawn for each direction
SCALE = (0.8, 1.2)  # one factor for both directions


def training_transform() -> albumentations.Compose:
    """Gamma and affine map of every image, flip of half of them, each drawn uniformly from its range: Stojanovski et
    al. 2023, and their published runner (torchvision's adjust_gamma, RandomHorizontalFlip, RandomRotation and
    RandomAffine).

    Images are interpolated linearly, label maps take the nearest value; what comes in from outside the image is 0 in
    both, as outside the ultrasound cone.
    """
    cv2.setNumThreads(1)  # images are small: threads cost more than they give
    return albumentations.Compose(
        [
            albumentations.RandomGamma(gamma_limit=tuple(100 * limit for limit in GAMMA), p=1),  # in per cent
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(
                rotate=ROTATION_DEGREES,
                translate_percent=SHIFT,
                scale=SCALE,
                keep_ratio=True,
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                p=1,
            ),
        ]
    )


def augment(
    transform: albumentations.Compose, image: np.ndarray, label: np.ndarray, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map, (height, width) uint8, mapped alike; what is drawn depends on `seed` alone."""
    # One stream for all parts: set_random_seed would start each with the same seed, and their draws would be equal.
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    transform.set_random_state(np.random.default_rng(start), random.Random(start))
    out = transform(image=image, mask=label)
    return out["image"], out["mask"]

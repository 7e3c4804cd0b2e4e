"""Augmentation of training images as in Echo from Noise: contrast, flip and an affine map, by albumentations."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would otherwise ask the network for its newest version

import albumentations
import cv2
import numpy as np

GAMMA_PERCENT = (50, 300)
ROTATION_DEGREES = (-10, 10)
SHIFT = (-0.2, 0.2)  # fraction of the image size
SCALE = (0.8, 1.2)


def training_transform() -> albumentations.Compose:
    """Each part is applied to half of the images. Images are interpolated linearly, label maps take the nearest value;
    what comes in from outside the image is 0 in both, as outside the ultrasound cone.
    """
    cv2.setNumThreads(1)  # images are small: threads cost more than they give
    return albumentations.Compose(
        [
            albumentations.RandomGamma(gamma_limit=GAMMA_PERCENT, p=0.5),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(
                rotate=ROTATION_DEGREES,
                translate_percent=SHIFT,
                scale=SCALE,
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST,
                p=0.5,
            ),
        ]
    )


def augment(
    transform: albumentations.Compose, image: np.ndarray, label: np.ndarray, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map, (height, width) uint8, mapped alike; what is drawn depends on `seed` alone."""
    transform.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    out = transform(image=image, mask=label)
    return out["image"], out["mask"]

"""Semantic diffusion in seven rooms. Imports run downwards only; tests/pipeline/test_rooms.py holds them to it.

    evaluation/   how good a folder of images is
    training/     one run, from its first step to its last checkpoint
    sampling/     from noise to a folder of images
    data/         folders on disk -> batches
    network/      the U-Net and its semantic modulation
    process/      the diffusion process: no files, no devices, no ranks
    runs/         who am I among how many; where files lie; checkpoints

`process` and `runs` know nothing of each other, nor of anything above them. Each room's own page says what lies there,
and in which order to read it.

To follow one training: training.loop, training.run, training.update, process.diffusion, network.unet.
To follow one image: sampling.job, sampling.denoiser, sampling.samplers.
"""

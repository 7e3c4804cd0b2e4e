"""From noise to a folder of images. May import `data`, `network`, `process` and `runs`.

    job           the sampling job of one rank: its batches, the files it writes, what it tells
    plan          which images are made, from which label maps, by which sampler at which timesteps; their manifest rows
    inputs        the files it reads, looked at before the work
    denoiser      network, process, condition and guidance as one function from (x_t, t) to x_0
    samplers      DDPM, DDIM and the few-step solvers: functions of a denoiser and a list of timesteps
    results       the folder: pictures, manifest.csv, what of an earlier run may stay
    carried       what travels with the images from datadir: metadata.csv, dataset.json
    reporting     what the job tells, its progress, and the contact sheet
    ahead         the next batch is prepared while this one is sampled
    batch_size    how many images at once
    graphs        a sampling step as one CUDA graph

Read `denoiser` and `samplers` for the mathematics, `plan`, `job` and `results` for the job around it.
"""

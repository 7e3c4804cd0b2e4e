"""The U-Net and its semantic modulation. May import `process`, for building both from one set of settings, and `runs`.

    from_settings     from the settings to the network, and to the process
    unet              the network: levels of an encoder and a decoder
    blocks            what they consist of: residual blocks, attention, changes of resolution
    layers            normalisation, convolution, a last layer's start at zero
    precision         float32, bfloat16 or float16: chosen once, for training and sampling alike

The modulation is one idea in seven modules. SPADE scales and shifts normalised features by two convolutions over the
label map, which see nothing but the 5 x 5 labels around a pixel, and echo label maps have few such neighbourhoods. So:

    condition             label maps become a Condition: integers at each resolution of the network
    neighbourhoods        the distinct 5 x 5 neighbourhoods of a batch are found and numbered
    spade                 the two convolutions run on those alone: a table, a row for each neighbourhood
    modulation            normalise, take each pixel's row, add the timestep, SiLU: one step, kept by its input alone
    modulation_plain      that step in PyTorch's own operations: the reference, and what a CPU runs
    modulation_gpu        the same by kernels, and the check against the plain form before they are used
    modulation_kernels    the kernels (Triton)

Read `spade` first: its dense form is SPADE as published, its table form the idea. Whoever has no GPU kernels to mend
may skip the last two, and take from `neighbourhoods` only what its first lines say.
"""

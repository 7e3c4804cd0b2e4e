"""Who am I among how many, and where do files lie. Imports no other room.

    launch              a command's settings are read, and mistakes in them told, before torch is imported
    environment         which rank this is, by the launcher's environment variables
    distributed         a process starts: alone, under mpiexec or torchrun; and ends, with all ranks, at an error
    node                what of a node's cores and GPUs is this rank's
    world               what the ranks of a run do together: sums, broadcasts, failing together
    sole_use            one run at a time in an output folder
    storage             local paths and gs:// or az:// addresses by one set of functions
    checkpoints         weights as plain state dicts that carry their network's settings, ours and published ones
    checkpoint_shapes   settings read off the shapes of tensors, for a published file that says nothing of itself
    network_settings    those settings, held against the command line's
    settings_file       train_test_config.json, as the published code writes and reads it

Begin with `world`, then `checkpoints`; the others are met where they are needed.
"""

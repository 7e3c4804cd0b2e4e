"""One run, from its first step to its last checkpoint. May import `sampling`, `data`, `network`, `process` and
`runs`.

    loop                 `train`, and the loop: step, tell, save, until the end or until asked to stop
    run                  what a run consists of, and how all of it is saved and loaded
    update               one step: gradients, averaged over ranks, and the update of the weights
    startup              before the first step: settings, data and paths are checked, pictures decoded
    starting             a new run from the weights of another: what fits is taken
    beginning            the weights that a run began from, which it refuses to confuse with others
    resuming             the files of a checkpoint: complete or not there, found again, pruned
    saved_state          what stands in the file of a state, and whether it fits the network
    unfinished           weights whose state is missing: of a killed save, or somebody's work
    background_writer    checkpoints are written beside the steps

    optimisation         AdamW, learning rate, loss scale, clipping, skipping
    ema                  averaged weights
    averaging            an average of any width, made of those that a training saved
    memory               what fits: pictures into the node's memory, activations into the device's
    rehearsal            the first step without its update: does it fit, on every rank?

    step_statistics      sums on the device, read once per line of the log
    looking              what is told of a step: its row; of a checkpoint, validation and preview
    validation           the loss on validation images, at noise that never changes
    preview              some images, drawn at each checkpoint
    reporting            what is told besides: speed, memory, the command to go on with
    run_log              console, log.txt, progress.csv, TensorBoard
    preemption           SIGTERM, SIGUSR1, Ctrl-C: all ranks stop at the same step

Read the first three; each of the others is one answer to one question of theirs.
"""

"""Folders on disk -> batches. May import `network` (for a batch's Condition), `process` and `runs`.

    datasets           the layouts (camus, ade20k, folder ...): images and label maps, paired by name
    arrays             their pixels, read and brought to the size the network works at
    description        what the data set is, by its dataset.json: names, number and colours of the classes
    label_maps         from the values of a file to classes, and the edges between instances
    loading            what a training step gets: order, flips, crops, dropped labels; pictures in memory
    batches            a rank's microbatches of each step, from loader processes or none
    loader_processes   who decodes beside the training: deaf to its signals, gone when it is
    shared_memory      how many of them /dev/shm has room for
    pictures           from arrays to what people look at: overlays, outlines, contact sheets

Read `datasets`, `arrays`, then `loading`. `pictures` depends on nothing.
"""

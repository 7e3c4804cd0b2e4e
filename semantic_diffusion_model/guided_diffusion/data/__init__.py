"""Folders on disk -> batches. May import `network` (for a batch's Condition), `process` and `runs`.

    datasets      the layouts (camus, cityscapes, ade20k, celeba, coco, folder): images and label maps, paired by name
    label_maps    from the values of a file to classes, and the edges between instances
    loading       what a training step gets: order, flips, crops, dropped labels; loader processes; pictures in memory
    pictures      from arrays to what people look at: overlays, outlines, contact sheets

Read `datasets`, then `loading`. `pictures` depends on nothing.
"""

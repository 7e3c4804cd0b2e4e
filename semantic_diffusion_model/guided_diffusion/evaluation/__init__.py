"""How good a folder of images is. May import `sampling` (for its manifest), `data` and `runs`.

    job             the whole evaluation: what is read, measured, judged and written
    classes         what the classes mean: which is the outside, which are told apart
    image_sets      folders on disk -> frames with their label maps and patients
    measuring       one pass over a set: every measure, batch by batch
    frame_numbers   the row of numbers of a frame, its histograms and bands
    speckle         contrast, Nakagami parameters, correlation lengths, spectra: functions of arrays
    resampling      intervals over patients, and the yardstick of two halves of real ones
    features        networks from files: the segmentation's encoder, Inception
    distances       Frechet and kernel distance, precision and recall of features
    agreement       Dice between a label and what a segmentation network sees in the image drawn for it
    diversity       structural similarity among images
    fingerprints    a frame's fine pattern, and the nearest training frame by it
    largest         the law of the largest of many correlations by chance, and how far it reaches
    memorisation    who is a copy
    comparison      two synthetic sets, paired by label map
    entries         evaluation.json: every number in its place
    report          evaluation.md: the same as tables, with how to read them
    figures         the same as pictures
    output_folder   what is written, and how a former evaluation makes room

Read `speckle` and `fingerprints` for what is measured, `resampling` and `memorisation` for how it is judged, and `job`
for the whole.
"""

"""The settings as --help groups them: for each command, those it works with first, those it passes over last.

Both commands take the same flags, as the published ones do, so that one line of flags serves both.
"""

from setting_groups import (
    DataSettings,
    DiffusionSettings,
    LossSettings,
    NetworkSettings,
    RunSettings,
    SamplingSettings,
    TrainingDataSettings,
    TrainingSettings,
)

Groups = dict[str, tuple[type, str]]

FROM_CHECKPOINT = "Sampling takes these from the checkpoint; a flag that disagrees with it is refused."
PASSED_OVER = "Taken, since both commands take the same flags, and without effect here."

TRAINING_GROUPS: Groups = {
    "data": (DataSettings, ""),
    "training data": (TrainingDataSettings, ""),
    "training": (TrainingSettings, ""),
    "network": (NetworkSettings, "With --resume_checkpoint, that of the checkpoint."),
    "diffusion": (DiffusionSettings, ""),
    "loss": (LossSettings, ""),
    "run": (RunSettings, ""),
    "not used by image_train.py: sampling": (SamplingSettings, PASSED_OVER),
}
SAMPLING_GROUPS: Groups = {
    "data": (DataSettings, ""),
    "sampling": (SamplingSettings, ""),
    "run": (RunSettings, ""),
    "network": (NetworkSettings, FROM_CHECKPOINT),
    "diffusion": (DiffusionSettings, FROM_CHECKPOINT),
    "not used by image_sample.py: training": (TrainingSettings, PASSED_OVER),
    "not used by image_sample.py: training data": (TrainingDataSettings, PASSED_OVER),
    "not used by image_sample.py: loss": (LossSettings, PASSED_OVER),
}

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

FROM_CHECKPOINT = (
    "Sampling takes these from the checkpoint, and refuses a flag that disagrees. But timestep_respacing chooses the "
    "timesteps that are visited, and dropout and use_checkpoint have no effect here."
)
WITH_CHECKPOINT = "With --resume_checkpoint those of the checkpoint, where no flag says otherwise."
PASSED_OVER = "Taken, since both commands take the same flags, and without effect here."

TRAINING_GROUPS: Groups = {
    "data": (DataSettings, ""),
    "training data": (TrainingDataSettings, ""),
    "training": (TrainingSettings, ""),
    "network": (NetworkSettings, WITH_CHECKPOINT),
    "diffusion": (DiffusionSettings, WITH_CHECKPOINT),
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

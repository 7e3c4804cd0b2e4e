"""Label maps, areas and volumes of images that have no labels, single frames and sequences: pictures, NIfTI or MHD.

Written into --output-dir: labels/ (of NIfTI and MHD a .nii.gz in the image's own geometry; of every frame a .png of
class values with a colour for each), overlays/, frames.csv (the cavity's area and long axis in each frame),
settings.json, and of patients whose files are named like CAMUS' (patient0001_4CH_ED, patient0001_4CH_half_sequence):
volumes.csv, ejection_fraction.csv and, of sequences, figures/.
"""

import sys

from command import run_command
from recordings import find_recordings
from settings import PredictSettings


def main(settings: PredictSettings) -> None:
    """Check all that is cheap to check, then import what is slow, then predict."""
    settings.check()
    recordings = find_recordings(settings.input, bool(settings.spacing_mm))
    frames = sum(recording.frames for recording in recordings)
    print(f"predicting {frames} frames of {len(recordings)} files with {settings.model_path}", flush=True)
    from prediction import predict_recordings  # slow: torch, MONAI, segmentation-models-pytorch

    predict_recordings(settings, recordings)


if __name__ == "__main__":
    sys.exit(run_command(main, PredictSettings, description=__doc__))

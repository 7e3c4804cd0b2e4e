"""Every setting of the segmentation commands: its name, default, range and meaning, once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from command import PathText, UserError, YesNo
from dataset_description import Description, camus
from folder_lock import LOCK
from input_files import real_path
from recorded import Recorded
from results import RESULT_FOLDERS
from schema import check_settings

# What may differ between the two halves of a resumed run: where things lie, and what changes speed or display alone.
SPEED_AND_PLACE = ("data_dir", "extra_data_dir", "output_dir", "gpu", "compile_model", "num_workers", "pin_memory")
FREE_TO_CHANGE = (*SPEED_AND_PLACE, "cache_gb", "test_viz_num", "test_shuffle", "bootstrap")
FREE_TO_CHANGE += ("native_dir", "spacing_mm", "missed_distance")
OF_NETWORKS = ("mean", "gpu", "batch_size", "num_workers", "pin_memory", "compile_model")
OF_UNET = ("encoder_name", "decoder_channels", "encoder_weights")


# The upper ends are beyond all use, and keep a slip from filling the memory.
Count = Annotated[int, Interval(ge=0, le=10**6)]
Positive = Annotated[int, Interval(ge=1, le=10**6)]
Size = Annotated[int, Interval(ge=32, le=2**13)]
Classes = Annotated[int, Interval(ge=2, le=256)]
NotNegative = Annotated[float, Interval(ge=0)]


def agreed_classes(given: int | None, description: Description, data_dir: str) -> int:
    """How many classes the labels have. Raises UserError for a number given that the data's own description denies."""
    if given is None or description == camus():
        return given or description.num_classes
    if given != description.num_classes:
        names = ", ".join(description.class_names)
        raise UserError(
            f"--num-classes {given}: {data_dir} has {description.num_classes}, by its dataset.json ({names})"
        )
    return given


def refuse_native(native_dir: Path | None, description: Description) -> None:
    """Raises UserError for --native-dir with data that are not of CAMUS."""
    if native_dir is not None and description != camus():
        raise UserError(f"--native-dir is of CAMUS releases, and the data are {description.name}: leave it out")


class Unasked(str):
    """A default that can be told from the same word on the command line."""


@dataclass(kw_only=True)
class CommonSettings(Recorded):
    DASHES: ClassVar[bool] = True  # the published commands spell their flags so

    output_dir: Path = Path("./output")
    """Folder for the results; it is made if it is not there."""
    gpu: str = Unasked("cuda:0")
    """cuda:0, cuda:1 ... or cpu. Without this flag: cuda:0 or, saying so, the CPU. A GPU asked for must be there."""
    batch_size: Positive = 1
    """Images per batch."""
    num_workers: Annotated[int, Interval(ge=0, le=1024)] = 10
    """Loader processes, at most one per core; none with data in memory and the network on the CPU: no gain there."""
    pin_memory: YesNo = True
    """Page-locked batches, for faster copies to a GPU; without a GPU it has nothing to do."""
    cache_gb: NotNegative = 4.0
    """Keep the decoded images in memory if they take no more than this (2 bytes a pixel); 0: read files each time."""
    test_viz_num: Count = 8
    """How many cases are drawn as overlays (of the test: best, median, worst and between). 0: none."""
    test_shuffle: YesNo = False
    """Evaluate the test cases in random order (rows of metrics.csv follow) instead of by name."""
    seed: Annotated[int, Interval(ge=0, lt=2**64)] = 0
    """On a CPU, the same seed gives the same run: weights, order, augmentation, bootstrap."""
    bootstrap: Count = 0
    """Resamplings of the patients for 95 % intervals of the means (1000 is usual). 0: none."""
    native_dir: Path | None = None
    """The CAMUS release that the data were extracted from: predictions are brought to each frame's own grid and
    compared with the label there, in mm. Without it: at the network's size, which is then part of the unit (mm@128)."""
    spacing_mm: tuple[float, ...] = ()
    """Size of a pixel of the frames as recorded, depth and lateral, in mm (one number: both), instead of what
    metadata.csv and the files of --native-dir say."""
    missed_distance: Literal["none", "diagonal"] = "none"
    """Distance of a structure that one of the label maps lacks: none leaves the case out of the means (and counts it),
    diagonal takes that of the frame. No rule of the CAMUS challenge for it is known."""


@dataclass(kw_only=True)
class TrainSettings(CommonSettings):
    data_dir: PathText
    """Data: a path with %s where images/annotations goes (/path/%s/), or the folder that holds the two."""
    extra_data_dir: tuple[PathText, ...] = ()
    """Further folders like --data-dir, of synthetic images say, whose training split is trained on, too. What their
    other splits hold is left alone, and an image of a patient that --data-dir has in another split is refused."""
    oversample: Annotated[int, Interval(ge=1, le=1000)] = 1
    """How often a pass draws each training image of --data-dir, while those of --extra-data-dir are drawn once: so few
    real images keep their weight beside many synthetic ones. Each time has its own augmentation."""
    model_name: Literal["unet", "camus-unet"] = "unet"
    """unet: a U-Net of segmentation-models-pytorch. camus-unet: the published one of MONAI."""
    encoder_name: str = "resnet18"
    """Encoder of unet, by its name in segmentation-models-pytorch (tu-NAME takes one of timm). The default learned most
    in a given time: docs/performance.md."""
    decoder_channels: tuple[Annotated[int, Interval(ge=1, le=2**13)], ...] = (64, 48, 32, 16, 8)
    """Channels of unet's decoder, from the coarsest level up to full size; as many as the encoder goes down."""
    encoder_weights: str = "none"
    """Pre-trained weights of the encoder, downloaded unless cached: imagenet and so on. none: no download."""
    model_path: Path | None = None
    """Start from the weights of this checkpoint (of the same architecture) instead of random ones. A run that goes on
    has no more need of the file, and refuses one with other weights."""
    num_classes: Classes | None = None
    """Classes of the labels: values 0 .. num_classes - 1. Default: as many as the dataset.json of the data says, where
    another number given here is an error; 4, those of CAMUS, without one."""
    img_size: Size = 256
    """Height and width in pixels that images and labels are brought to."""
    compile_model: YesNo = True
    """Compile the network for a GPU. A network on the CPU is not compiled."""
    mixed_precision: YesNo = True
    """bfloat16 arithmetic where it is safe, on a GPU. A network on the CPU computes in float32."""
    epochs: Positive = 300
    """Passes over the training images, or blocks of --epoch-updates; the network is validated after each."""
    epoch_updates: Count = 0
    """Updates in an epoch, so that trainings on different numbers of images make the same number of updates, and choose
    among as many networks: --epochs 10 --epoch-updates 300 makes 3,000. 0: one pass over the training images."""
    lr: NotNegative = 1e-3
    """Learning rate of Adam at the start; it falls along a half cosine, per step, over the whole run."""
    min_lr: NotNegative = 1e-4
    """Learning rate at the end."""
    loss: Literal["ce", "dice_ce"] = "ce"
    """Cross-entropy, or the sum of cross-entropy and soft Dice loss."""
    augment: YesNo = True
    """Augment training images: gamma, flip, rotation, shift, scale."""
    train_shuffle: YesNo = True
    """A new random order of the training images in each pass over them; False: by name."""
    patience: Count = 0
    """Stop after this many epochs without a better validation Dice. 0: never."""

    def check(self) -> None:
        """Raises UserError if a number makes no sense."""
        check_settings(self)
        check_spacing(self.spacing_mm)
        if not 0 <= self.min_lr <= self.lr:
            raise UserError(f"--lr {self.lr} and --min-lr {self.min_lr}: needed is 0 <= min-lr <= lr")
        if self.oversample > 1 and not self.extra_data_dir:
            raise UserError(f"--oversample {self.oversample}: nothing to weigh against; --extra-data-dir is not given")
        of_unet = {option.name: option.default for option in fields(self) if option.name in OF_UNET}
        given = [name.replace("_", "-") for name, default in of_unet.items() if getattr(self, name) != default]
        if self.model_name != "unet" and given:
            raise UserError(f"--{given[0]} is of unet, and --model-name is {self.model_name}: leave it out")
        if self.model_path is not None and self.encoder_weights != "none":
            raise UserError(f"--encoder-weights {self.encoder_weights}: the weights are those of --model-path")


@dataclass(kw_only=True)
class InferenceSettings(Recorded):
    test_time_augmentation: YesNo = False
    """Average the class probabilities of each image and of its mirror image: twice the time."""
    remove_stray_parts: YesNo = False
    """Of each structure only the largest connected part counts; the next likely class takes the others."""

    def inference_options(self) -> dict[str, bool]:
        """The settings of this class alone, by name."""
        return {option.name: getattr(self, option.name) for option in fields(InferenceSettings)}


@dataclass(kw_only=True)
class TestSettings(CommonSettings, InferenceSettings):
    __test__ = False  # the name starts like a test of pytest's, which it is not

    output_dir: Path = Path("./output_test")
    """Folder for the results; it is made if it is not there. Not that of a training."""
    data_dir: PathText = ""
    """Data: a path with %s where images/annotations goes (/path/%s/), or the folder that holds the two."""
    model_path: Path | None = None
    """Checkpoint to test: model.pth of runner.py, or a published state dict."""
    predictions: Path | None = None
    """Instead of a checkpoint: a folder of predicted label maps, one for each case, called as its image or
    <patient>_<view>_<phase>: PNG of any size, NIfTI or MHD in the geometry of the frame; where a name has both,
    as predict.py writes them, the latter."""
    split: Literal["testing", "validation", "training"] = "testing"
    """Split that is evaluated."""
    image_quality: tuple[str, ...] = ()
    """Only frames of these image qualities, as metadata.csv names them (Good Medium): one that no frame has is an
    error. Default: all."""
    num_classes: Classes | None = None
    """Classes of the network: known from the checkpoint; another number given here is an error. Of
    --predictions: as many as the dataset.json of the data says; 4 without one."""
    img_size: Size | None = None
    """Height and width in pixels. Default: the size of the training; 256 for a published checkpoint; that of the images
    with --predictions."""
    compile_model: YesNo = False
    """Compile the network for a GPU. A network on the CPU is not compiled."""
    mean: Annotated[float, Interval(ge=0, le=1)] | None = None
    """Mean grey value (0 to 1) for a checkpoint that does not carry it. Default: of --data-dir's training split."""
    std: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Standard deviation of the grey values (0 to 1), likewise."""
    compare: tuple[Path, Path] | None = None
    """Two output folders: print their results side by side, with paired differences, and do nothing else. No other
    setting has a part in it."""

    def check(self) -> None:
        """Raises UserError if something is missing or makes no sense."""
        check_settings(self)
        if self.compare is not None:
            refuse_beside(self, "compare")
            return
        if not self.data_dir or (self.model_path is None) == (self.predictions is None):
            needed = "needed are --data-dir and one of --model-path and --predictions"
            raise UserError(f"{needed} (or --compare with two output folders)")
        check_spacing(self.spacing_mm)
        check_normalisation(self)
        unused = [spelt(name) for name in (*OF_NETWORKS, *self.inference_options()) if was_given(self, name)]
        if self.predictions is not None and unused:
            raise UserError(
                f"--{unused[0]} is about a network, and --predictions are label maps: leave one of them out"
            )
        if self.predictions is not None:
            read = real_path(self.predictions)
            if {real_path(self.output_dir / name) for name in RESULT_FOLDERS} & {read, *read.parents}:
                told = "would be replaced by the results: another --output-dir"
                raise UserError(f"--predictions {self.predictions} {told}")


@dataclass(kw_only=True)
class PredictSettings(InferenceSettings):
    DASHES: ClassVar[bool] = True

    model_path: Path
    """Checkpoint: model.pth of runner.py, or a published state dict."""
    input: tuple[Path, ...]
    """Images (pictures, NIfTI or MHD; single frames or sequences), or folders, in which all of them are taken, those of
    their subfolders too; files named *_gt, which are label maps, are passed over."""
    output_dir: Path
    """Folder for the results: a new or an empty one."""
    gpu: str = Unasked("cuda:0")
    """cuda:0, cuda:1 ... or cpu. Without this flag: cuda:0 or, saying so, the CPU. A GPU asked for must be there."""
    batch_size: Positive = 8
    """Frames per batch."""
    img_size: Size | None = None
    """Height and width in pixels that the network sees. Default: the size of the training; 256 for a published
    checkpoint."""
    mean: Annotated[float, Interval(ge=0, le=1)] | None = None
    """Mean grey value (0 to 1), for a checkpoint that does not carry it."""
    std: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Standard deviation of the grey values (0 to 1), likewise."""
    spacing_mm: tuple[float, ...] = ()
    """Size of a pixel, depth and lateral, in mm (one number: both), instead of what the files say."""

    def check(self) -> None:
        """Raises UserError if something is missing or makes no sense."""
        check_settings(self)
        check_spacing(self.spacing_mm)
        check_normalisation(self)
        if not self.input:
            raise UserError("--input: name at least one file or folder")
        if not self.model_path.is_file():
            raise UserError(f"--model-path {self.model_path}: no such file")
        self.check_output_dir()

    def check_output_dir(self) -> None:
        """Raises UserError if there is anything in it, but for the lock of a run."""
        if not self.output_dir.exists():
            return
        if not self.output_dir.is_dir() or any(path.name != LOCK for path in self.output_dir.iterdir()):
            raise UserError(f"--output-dir {self.output_dir}: is there already and not empty; give another")


def refuse_beside(settings: TestSettings, alone: str) -> None:
    """Raises UserError for a setting that was given beside `alone`, and would be ignored; but for output_dir, which a
    script may give to all of its commands."""
    for option in fields(settings):
        if option.name not in (alone, "output_dir") and was_given(settings, option.name):
            raise UserError(
                f"--{spelt(option.name)} has no part in --{alone}, which reads two evaluations: leave it out"
            )


def was_given(settings: TestSettings, name: str) -> bool:
    """Whether a setting differs from its default; by type too: a GPU that was asked for is a plain string."""
    default, given = getattr(TestSettings, name), getattr(settings, name)
    return (type(given), given) != (type(default), default)


def spelt(name: str) -> str:
    """A setting as on the command line, without its dashes in front."""
    return name.replace("_", "-")


def check_spacing(spacing_mm: tuple[float, ...]) -> None:
    """Raises UserError for what is no size of a pixel."""
    if len(spacing_mm) > 2 or not all(0 < mm <= 1000 for mm in spacing_mm):
        raise UserError(f"--spacing-mm {' '.join(map(str, spacing_mm))}: one or two numbers above 0, up to 1000")


def check_normalisation(settings: TestSettings | PredictSettings) -> None:
    """Raises UserError if one of mean and std is given alone."""
    if (settings.mean is None) != (settings.std is None):
        raise UserError("--mean and --std go together: give both or neither")

"""The files of a pair -> arrays of the size the network works at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from config import Settings
from guided_diffusion.data.datasets import Pair
from guided_diffusion.data.label_maps import instance_edges, remap
from guided_diffusion.runs import storage
from picture_files import check_size, decode_image, decode_labels, decode_numbers, read_bytes

# Left, top, right, bottom, as fractions of the picture.
Box = tuple[float, float, float, float]


def target_size(width: int, height: int, settings: Settings) -> tuple[int, int]:
    """(width, height) that a picture of this size is brought to: square, but for cityscapes, which keeps the aspect, as
    far as sides that the network can halve at each level allow.
    """
    if settings.dataset_mode != "cityscapes":
        return settings.img_size, settings.img_size
    while min(width, height) >= 2 * settings.img_size:
        width, height = width // 2, height // 2
    scale = settings.img_size / min(width, height)
    step = settings.patch_size * 2 ** (len(settings.multipliers()) - 1)
    return tuple(max(1, round(side * scale / step)) * step for side in (width, height))


def load_image(pair: Pair, settings: Settings, box: Box | None = None) -> np.ndarray:
    """The image [3, H, W] uint8: halved by a box filter while twice too large, then resized bicubically (Pillow's)."""
    channels = load_channels(pair, settings, box, colour=True)
    return channels.repeat(3, axis=0) if len(channels) == 1 else channels


def load_channels(pair: Pair, settings: Settings, box: Box | None = None, colour: bool = False) -> np.ndarray:
    """As `load_image`, but a grey picture has one channel, [1, H, W]. Raises UserError as `read_channels`."""
    return resize_image(read_channels(pair, settings, colour), settings, box)


def read_channels(pair: Pair, settings: Settings, colour: bool = False) -> np.ndarray:
    """The picture at the size of the file, grey [height, width] or in colour [height, width, 3] uint8.

    Raises UserError for a picture in colours that a network of one channel is to learn, unless they are asked for.
    """
    assert pair.image_path is not None
    return decode_image(read_file(pair.image_path), pair.image_path, colour=colour or settings.image_channels == 3)


def load_label(pair: Pair, settings: Settings, box: Box | None = None) -> np.ndarray:
    """The classes [H, W] uint8, resized to the nearest pixel. Raises UserError if the file is no label map."""
    return resize_nearest(read_label(pair, settings), settings, box)


def read_label(pair: Pair, settings: Settings) -> np.ndarray:
    """The classes [height, width] uint8 at the size of the file. Raises UserError if the file is no label map."""
    return remap(decode_labels(read_file(pair.label_path), pair.label_path), settings.dataset_mode)


def other_aspect(pair: Pair, labels: Sequence[int], what: str, shape: Sequence[int], settings: Settings) -> str | None:
    """What to tell if the label map of a pair and `what` beside it, of (height, width) `labels` and `shape`, are not in
    one proportion as far as whole pixels allow, or would come out at different sizes; else None."""
    apart = abs(labels[0] * shape[1] - labels[1] * shape[0]) > max(sum(labels), sum(shape))
    if not apart and target_size(labels[1], labels[0], settings) == target_size(shape[1], shape[0], settings):
        return None
    sizes = [f"{height} x {width}" for height, width in (labels, shape)]
    return f"{pair.label_path}: {sizes[0]} pixels (height x width), another aspect than its {what}, {sizes[1]}"


def load_edges(
    pair: Pair,
    settings: Settings,
    box: Box | None = None,
    labels: np.ndarray | None = None,
    instances: np.ndarray | None = None,
) -> np.ndarray:
    """Edges between instances, bool [H, W]; where the data set has no instance map, between labels.

    `labels`, `instances`: what `load_label` and `read_instances` gave, where that is at hand: it is not read again.
    """
    if pair.instance_path is None:
        return instance_edges(load_label(pair, settings, box) if labels is None else labels)
    instances = read_instances(pair) if instances is None else instances
    return instance_edges(resize_nearest(instances, settings, box))


def read_instances(pair: Pair) -> np.ndarray:
    """Numbers of instances [height, width] int32 at the size of the file. Raises UserError if it is no such map."""
    assert pair.instance_path is not None
    return decode_numbers(read_file(pair.instance_path), pair.instance_path).astype(np.int32)


def read_file(path: str) -> bytes:
    """The content of a picture's file, local or not. Raises UserError for one that is empty or too large."""
    if not storage.is_remote(path):
        return read_bytes(path)
    check_size(path, storage.size(path))
    with storage.open_for_reading(path) as file:
        return file.read()


def resize_image(pixels: np.ndarray, settings: Settings, box: Box | None = None) -> np.ndarray:
    """Grey or colour values [height, width(, 3)] uint8 as [1 or 3, H, W], in memory of its own."""
    size = target_size(pixels.shape[1], pixels.shape[0], settings)
    if box is not None or pixels.shape[:2] != size[::-1]:
        pixels = np.asarray(_resized(Image.fromarray(pixels), size, box))
    return np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")


def _resized(picture: Image.Image, size: tuple[int, int], box: Box | None) -> Image.Image:
    left, top, right, bottom = box or (0, 0, 1, 1)
    while min(picture.width * (right - left), picture.height * (bottom - top)) >= 2 * min(size):
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    return picture.resize(size, Image.Resampling.BICUBIC, box=_pixels(picture.size, box))


def resize_nearest(values: np.ndarray, settings: Settings, box: Box | None = None) -> np.ndarray:
    size = target_size(values.shape[1], values.shape[0], settings)
    if box is None and values.shape == size[::-1]:
        return values
    picture = Image.fromarray(values)
    return np.array(picture.resize(size, Image.Resampling.NEAREST, box=_pixels(picture.size, box)))


def _pixels(size: tuple[int, int], box: Box | None) -> Box | None:
    if box is None:
        return None
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height

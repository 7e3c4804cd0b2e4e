"""Every form of picture and label map that people have, made from the same pixels, and the readers that meet them."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from command import UserError

SIZE = 32
PALETTE = [0, 0, 0, 230, 60, 40, 40, 200, 90, 60, 80, 220, 250, 240, 40]


def label_map() -> np.ndarray:
    """Classes 0 to 4 in blocks, uint8."""
    rng = np.random.default_rng(5)
    return rng.integers(0, 5, (SIZE // 4, SIZE // 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)


def grey_image() -> np.ndarray:
    """All grey values, and noise, uint8."""
    noise = np.random.default_rng(6).integers(0, 256, SIZE * SIZE - 256)
    return np.concatenate([np.arange(256), noise]).reshape(SIZE, SIZE).astype(np.uint8)


def save(picture: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_palette(values: np.ndarray, colours: list[int] = PALETTE) -> Image.Image:
    image = Image.fromarray(values).convert("L")
    image.putpalette(colours)
    return image


def channels(values: np.ndarray, *factors: float, alpha: np.ndarray | None = None) -> np.ndarray:
    planes = [(values * factor).astype(np.uint8) for factor in factors]
    return np.stack([*planes, *([] if alpha is None else [alpha])], axis=-1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(header: tuple, data: bytes, *more: bytes) -> bytes:
    """A PNG file of these parts: what no well-meant writer makes."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    return start + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def few_bits(values: np.ndarray, bits: int) -> bytes:
    """Grey values below 2**bits as they are, in a PNG of so many bits per sample."""
    each = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(each.reshape(len(values), -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return png((values.shape[1], values.shape[0], bits, 0, 0, 0, 0), zlib.compress(data))


def forms(values: np.ndarray) -> dict[str, bytes]:
    """Files that show `values`, or something like them, by what is special about each."""
    opaque, hidden = np.full_like(values, 255), np.where(values > 1, 255, 0).astype(np.uint8)
    deep = values.astype(np.uint16)
    return {
        "PNG, grey": save(values),
        "PNG, three equal channels": save(channels(values, 1, 1, 1)),
        "PNG, one of three channels": save(channels(values, 1, 0, 0)),
        "PNG, colours": save(channels(values, 1, 0.5, 0.25)),
        "PNG, grey, opaque alpha": save(Image.merge("LA", [Image.fromarray(values), Image.fromarray(opaque)])),
        "PNG, equal channels, opaque alpha": save(channels(values, 1, 1, 1, alpha=opaque)),
        "PNG, alpha that hides parts": save(channels(values, 1, 1, 1, alpha=hidden)),
        "PNG, a transparent grey value": save(Image.fromarray(values), transparency=1),
        "PNG, 16 bits, same numbers": save(deep),
        "PNG, 16 bits, times 257": save(deep * 257),
        "PNG, damaged checksum": damaged(save(values)),
        "PNG, data that end early": png((SIZE, SIZE, 8, 0, 0, 0, 0), zlib.compress(b"\0" + bytes(SIZE))),
        "PNG, cut in half": save(values)[: len(save(values)) // 2],
        "BMP, grey": save(values, "BMP"),
        "TIFF, grey": save(values, "TIFF"),
        "TIFF, deflated": save(values, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, 16 bits, same numbers": save(deep, "TIFF"),
        "TIFF, int32": save(values.astype(np.int32), "TIFF"),
        "TIFF, floats from 0 to 1": save((values / 255).astype(np.float32), "TIFF"),
        "TIFF, JPEG-compressed": save(values, "TIFF", compression="jpeg"),
        "JPEG": save(values, "JPEG", quality=95),
    }


def label_forms() -> dict[str, bytes]:
    values = label_map()
    few = {"PNG, 4 bits, grey": few_bits(values, 4)}
    palettes = {
        "PNG, palette": save(with_palette(values)),
        "PNG, palette of 4 bits": save(with_palette(values), bits=4),
        "PNG, palette, class 0 transparent": save(with_palette(values), transparency=0),
        "BMP, palette": save(with_palette(values), "BMP"),
        "TIFF, palette": save(with_palette(values), "TIFF"),
    }
    return forms(values) | few | palettes


def image_forms() -> dict[str, bytes]:
    values = grey_image()
    greys, colours = [v for n in range(256) for v in (n, n, n)], [v for n in range(256) for v in (n, 255 - n, 0)]
    return forms(values) | {
        "PNG, palette of greys": save(with_palette(values, greys)),
        "PNG, palette of colours": save(with_palette(values, colours)),
    }


def damaged(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 12
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def outcome(read: Callable[[Path], np.ndarray], file: Path, expected: list[np.ndarray]) -> str:
    """`read`, `refused` (in one line that names the file), or `WRONG`."""
    try:
        found = read(file)
    except UserError as error:
        told = str(error)
        return "refused" if "\n" not in told and str(file) in told else f"WRONG: {told}"
    return "read" if any(np.array_equal(found, one) for one in expected) else "WRONG"

"""Pictures from the bytes of a file: right to the pixel, or refused in one line.

This small file stands in each of the three script folders, which do not import one another. What it takes and what it
refuses is docs/on_disk.md. Decoding is Pillow's; it does not verify the checksums of a PNG file, fills a data stream
that ends early with zeros, and takes the upper half of 16-bit colours: all that is looked at here first.
"""

import io
import itertools
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from command import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MOST_PIXELS, MOST_BYTES = 1 << 25, 1 << 27  # of a picture, of its file
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what decides the pixels; texts and profiles may be bombs
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Of an interlaced picture: first column and row of each pass, and their steps (PNG specification, 8.2).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
TIFF_ORIENTATION, TIFF_BITS, TIFF_SAMPLE_FORMAT = 274, 258, 339
AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Png:
    """A PNG file whose checksums and length of data are right; `chunks` are those that decide the pixels.

    Of each chunk: kind, content, all bytes. `size` is (width, height).
    """

    size: tuple[int, int]
    bits: int
    colour_type: int
    interlaced: bool
    chunks: list[tuple[bytes, memoryview, memoryview]]

    def is_plain_grey(self) -> bool:
        """Whether it is grey with 8 bits, row by row, and has nothing but header and data."""
        plain = (self.bits, self.colour_type, self.interlaced) == (8, 0, False)
        return plain and all(kind in (b"IHDR", b"IDAT", b"IEND") for kind, _, _ in self.chunks)

    def stream(self) -> bytes:
        """The compressed data."""
        return b"".join(content for kind, content, _ in self.chunks if kind == b"IDAT")

    def file(self) -> bytes:
        """A PNG file of `chunks` alone."""
        return PNG_START + b"".join(chunk for _, _, chunk in self.chunks)


@dataclass(frozen=True)
class Decoded:
    """A picture as Pillow has it; `bits` per sample in the file, `lossy` if it was compressed as photographs are."""

    image: Image.Image
    bits: int
    lossy: bool


def is_picture(name: str | os.PathLike) -> bool:
    """Whether the name ends like that of a picture, in any case of letters."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def passed_over(folder: str | os.PathLike, names: Sequence[str]) -> str | None:
    """A line that counts and names the files in `folder` that were not read; None if there are none."""
    if not names:
        return None
    told = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
    return f"{folder}: {len(names)} file{'s' if len(names) > 1 else ''} passed over, no picture by name: {told}"


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a regular file of at most MOST_BYTES. Raises UserError."""
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file")
        check_size(str(path), about.st_size)
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def check_size(name: str, size: int) -> None:
    """Raises UserError for a file of no, or too many, bytes."""
    if size == 0:
        raise UserError(f"{name} is empty (0 bytes)")
    if size > MOST_BYTES:
        raise UserError(f"{name} has {size} bytes: pictures of more than {MOST_BYTES} are not read")


def decode_image(data: bytes, name: str, colour: bool = False) -> np.ndarray:
    """Grey values [height, width] uint8, or, of a picture in colours and if `colour` allows it, [height, width, 3].

    Raises UserError, which begins with `name`: for what is damaged or no picture, has more than 8 bits per sample, is
    transparent anywhere, or shows colours where grey is expected.
    """
    decoded = _decode(data, name)
    if decoded.bits > 8 or decoded.image.mode not in EIGHT_BIT_MODES:
        raise UserError(
            f"{name} has more than 8 bits per sample ({decoded.image.mode}): convert the whole set to 8-bit PNG files, "
            "by one factor for all of it"
        )
    _refuse_transparency(decoded.image, name)
    if decoded.image.mode == "L":
        return np.asarray(decoded.image)
    channels = np.asarray(decoded.image.convert("RGB"))
    if (channels == channels[..., :1]).all():
        return np.ascontiguousarray(channels[..., 0])
    if not colour:
        raise UserError(f"{name} is a picture in colour; expected is a grey one")
    return channels


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """Class values [height, width] uint8: the indices of a palette, the numbers of a grey picture or of equal channels.

    Raises UserError, which begins with `name`: for what is damaged or no picture, compressed with loss, in colours,
    transparent anywhere (but for palettes, whose indices count), or has other values than whole numbers up to 255.
    """
    values = decode_numbers(data, name)
    if values.dtype == np.uint8:
        return values.copy()  # Pillow's own may not be written to
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise UserError(f"{name} has values from {values.min()} to {values.max()}: no label map of 8 bits")
    return labels


def decode_numbers(data: bytes, name: str) -> np.ndarray:
    """As `decode_labels`, but of any depth: [height, width] of bool, whole or floating-point numbers."""
    decoded = _decode(data, name)
    image = decoded.image
    if decoded.lossy:
        raise UserError(f"{name} is a JPEG, which is no format for labels: it changes their values; use PNG")
    if image.mode == "P":
        return np.asarray(image)
    if decoded.bits > 8 and image.mode in EIGHT_BIT_MODES:
        raise UserError(f"{name} has {decoded.bits} bits in each of several channels: no label map")
    _refuse_transparency(image, name)
    values = np.asarray(image)
    if image.mode == "L" and decoded.bits < 8:
        return values // (255 // (2**decoded.bits - 1))  # Pillow spreads few bits over 0 .. 255
    if image.mode in ("LA", "RGB", "RGBA"):
        channels = values[..., : 1 if image.mode == "LA" else 3]
        if (channels != channels[..., :1]).any():
            raise UserError(f"{name} is a colour image, not a label map of class values")
        return channels[..., 0]
    if values.ndim != 2:
        raise UserError(f"{name} is no label map of one channel ({image.mode})")
    return values


def _refuse_transparency(image: Image.Image, name: str) -> None:
    if "transparency" in image.info and image.mode not in EIGHT_BIT_MODES:
        raise UserError(f"{name} names a transparent value in more than 8 bits")
    if (image.mode in ("LA", "RGBA") or "transparency" in image.info) and (
        np.asarray(image.convert("RGBA"))[..., 3].min() < 255
    ):
        raise UserError(f"{name} is transparent in parts: what those show is not known; save it without transparency")


def _decode(data: bytes, name: str) -> Decoded:
    if not data:
        raise UserError(f"{name} is empty (0 bytes)")
    png = _verified_png(data, name) if data.startswith(PNG_START[:4]) else None
    try:
        if png and png.is_plain_grey():  # most are; to look for the chunks again costs more than to decode
            return Decoded(Image.frombytes("L", png.size, png.stream(), "zip", "L"), png.bits, lossy=False)
        with Image.open(io.BytesIO(png.file() if png else data), formats=FORMATS) as image:
            _refuse_size(*image.size, name)
            if getattr(image, "n_frames", 1) != 1:
                raise UserError(f"{name} holds {image.n_frames} pictures; expected is one")
            if image.format in ("JPEG", "TIFF") and image.getexif().get(TIFF_ORIENTATION, 1) != 1:
                raise UserError(f"{name} is to be turned before it is shown (its orientation tag): save it upright")
            image.load()
            lossy = image.format == "JPEG" or "jpeg" in str(image.info.get("compression", ""))
            return Decoded(image, png.bits if png else _bits(image), lossy)
    except UserError:
        raise
    except Exception as error:  # decoders fail in many ways on what is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = "no PNG, JPEG, BMP or TIFF" if "cannot identify" in reason else reason
        raise UserError(f"{name} cannot be read as a picture ({reason})") from None


def _bits(image: Image.Image) -> int:
    """Bits per sample of what is no PNG; 32 for signed and floating-point ones."""
    if image.format != "TIFF":
        return 8
    formats = image.tag_v2.get(TIFF_SAMPLE_FORMAT, (1,))
    return max(image.tag_v2.get(TIFF_BITS, (1,))) if set(formats) <= {1} else 32


def _refuse_size(width: int, height: int, name: str) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(f"{name} is {width} x {height} pixels: more than {MOST_PIXELS} are not read")


def _verified_png(data: bytes, name: str) -> Png:
    """Raises UserError unless every chunk has its checksum, and the data stream has the length that the header says."""
    chunks = list(_png_chunks(data, name))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or [kind for kind, _, _ in chunks].count(b"IHDR") != 1:
        raise UserError(f"{name} is damaged: a PNG without one header at its start")
    if any(kind == b"acTL" for kind, _, _ in chunks):
        raise UserError(f"{name} is an animated PNG; expected is a single picture")
    width, height, bits, colour_type, *methods = struct.unpack(">IIBBBBB", chunks[0][1])
    if not width * height or bits not in (1, 2, 4, 8, 16) or colour_type not in PNG_CHANNELS or methods[:2] != [0, 0]:
        raise UserError(f"{name} is damaged: its PNG header makes no sense")
    _refuse_size(width, height, name)
    passes = [(0, 0, 1, 1)] if methods[2] == 0 else ADAM7
    expected = 0
    for left, top, across, down in passes:
        columns, rows = max(0, -(-(width - left) // across)), max(0, -(-(height - top) // down))
        row_bytes = -(-columns * bits * PNG_CHANNELS[colour_type] // 8)
        expected += rows * (1 + row_bytes) if columns else 0  # a row begins with the kind of its filter
    found = inflated_size((content for kind, content, _ in chunks if kind == b"IDAT"), expected, name)
    if found != expected:
        raise UserError(f"{name} is damaged: {'less' if found < expected else 'more'} data than its header says")
    kept = [chunk for chunk in chunks if chunk[0] in PNG_KEPT]
    return Png((width, height), bits, colour_type, methods[2] != 0, kept)


def _png_chunks(data: bytes, name: str) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Kind, content and all bytes of each chunk, up to the last, IEND; nothing is copied."""
    if not data.startswith(PNG_START):
        raise UserError(f"{name} is damaged: its first bytes are not those of a PNG")
    start, kind = len(PNG_START), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise UserError(f"{name} is truncated")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise UserError(f"{name} is truncated: a part of {length} bytes goes beyond its end")
        chunk = memoryview(data)[start:end]
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise UserError(f"{name} is damaged: a checksum is wrong")
        yield kind, chunk[8:-4], chunk
        start = end


def inflated_size(parts: Iterator[bytes | memoryview], most: int, name: str) -> int:
    """How many bytes the zlib stream in `parts` holds: counted, not kept, up to `most` and a little more.

    Raises UserError for one that is damaged or does not end.
    """
    stream, found = zlib.decompressobj(), 0
    try:
        for part in itertools.chain(parts, [b""]):
            while found <= most and not stream.eof:
                made = stream.decompress(part, AT_ONCE)
                part = stream.unconsumed_tail
                found += len(made)
                if not made and not part:
                    break
    except zlib.error as error:
        raise UserError(f"{name} is damaged: {error}") from None
    if found <= most and not stream.eof:
        raise UserError(f"{name} is damaged: its data end early")
    return found

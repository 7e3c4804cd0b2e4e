"""Pictures and label maps in every form, and with their bytes changed: right to the pixel, or refused in one line."""

import zlib

import cv2
import numpy as np
import pytest
from reader_forms import (
    SIZE,
    channels,
    chunk,
    damaged,
    grey_image,
    image_forms,
    label_forms,
    label_map,
    outcome,
    png,
    save,
)

import picture_files
from command import UserError

SUFFIX = {"PNG": "png", "BMP": "bmp", "TIFF": "tif", "JPEG": "jpg"}
# The forms that must be read: all others may be refused, none may be read as something else.
READ_AS_LABELS = {
    *("PNG, grey", "PNG, three equal channels", "PNG, grey, opaque alpha", "PNG, equal channels, opaque alpha"),
    *("PNG, 16 bits, same numbers", "BMP, grey", "TIFF, grey", "TIFF, deflated", "TIFF, 16 bits, same numbers"),
    *("TIFF, int32", "PNG, 4 bits, grey", "PNG, palette", "PNG, palette of 4 bits", "BMP, palette", "TIFF, palette"),
    "PNG, palette, class 0 transparent",
}
READ_AS_IMAGE = {
    *("PNG, grey", "PNG, three equal channels", "PNG, grey, opaque alpha", "PNG, equal channels, opaque alpha"),
    *("BMP, grey", "TIFF, grey", "TIFF, deflated", "TIFF, JPEG-compressed", "JPEG", "PNG, palette of greys"),
}
COLOURED = {
    "PNG, one of three channels",
    "PNG, colours",
    "PNG, palette of colours",
}  # by the diffusion model alone
FLIPS = 1000


def decoded_by_opencv(data: bytes) -> np.ndarray | None:
    """[height, width] or [height, width, 3], RGB: an independent decoder, for what may be read."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if found is None else found[..., ::-1]


@pytest.mark.parametrize("form", label_forms())
def test_label_maps(form, label_readers, table, tmp_path):
    file = tmp_path / f"x.{SUFFIX[form.split(',')[0]]}"
    file.write_bytes(label_forms()[form])
    for reader, read in label_readers.items():
        cell = outcome(read, file, [label_map()])
        table("Label maps", form, reader, cell)
        assert cell == ("read" if form in READ_AS_LABELS else "refused"), (reader, cell)


@pytest.mark.parametrize("form", image_forms())
def test_images(form, image_readers, table, tmp_path):
    data = image_forms()[form]
    file = tmp_path / f"x.{SUFFIX[form.split(',')[0]]}"
    file.write_bytes(data)
    in_colour = decoded_by_opencv(data)
    exact = [grey_image()] if form.split(",")[0] != "JPEG" and "JPEG" not in form and form not in COLOURED else []
    others = [] if in_colour is None or exact else [in_colour[..., 0]] if form not in COLOURED else [in_colour]
    for reader, read in image_readers.items():
        diffusion = reader.startswith("image_train")
        expected = [np.broadcast_to(one, (3, SIZE, SIZE)) if one.ndim == 2 else np.moveaxis(one, -1, 0)
                    for one in (*exact, *others)] if diffusion else [*exact, *others]  # fmt: skip
        cell = outcome(read, file, expected)
        table("Images", form, reader, cell)
        wanted = form in READ_AS_IMAGE or (diffusion and form in COLOURED)
        assert cell == ("read" if wanted else "refused"), (reader, cell)


@pytest.mark.parametrize("seed", range(3))
def test_single_flipped_bits_are_never_read_as_other_pixels(seed, image_readers, label_readers, table, tmp_path):
    """1,000 of each of three files; also through the readers of the folders, a tenth of them."""
    kinds = [("label map", save(label_map()), label_map(), label_readers, picture_files.decode_labels)]
    kinds += [("image", save(grey_image()), grey_image(), image_readers, picture_files.decode_image)]
    rng = np.random.default_rng(seed)
    for kind, whole, expected, readers, decode in kinds:
        wrong = refused = 0
        for number in range(FLIPS // 2):
            data, bit = bytearray(whole), int(rng.integers(8 * len(whole)))
            data[bit // 8] ^= 1 << bit % 8
            try:
                wrong += not np.array_equal(decode(bytes(data), "x"), expected)
            except UserError:
                refused += 1
            if number % 10 == 0:
                (tmp_path / "x.png").write_bytes(data)
                diffusion = np.broadcast_to(expected, (3, SIZE, SIZE))
                for reader, read in readers.items():
                    assert "WRONG" not in outcome(read, tmp_path / "x.png", [expected, diffusion]), (reader, bit)
        assert wrong == 0 and refused > 0.9 * FLIPS // 2
        table("Single flipped bits", f"PNG, {kind}, seed {seed}", "flips", str(FLIPS // 2))
        table("Single flipped bits", f"PNG, {kind}, seed {seed}", "wrong pixels", str(wrong))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_changed_bytes_never_end_in_a_traceback(kind, table):
    """Several bytes changed, removed or added anywhere: of files without checksums the pixels may be others."""
    rng = np.random.default_rng(3)
    whole = save(label_map(), kind)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(len(data)))
            change = [bytes([rng.integers(256)]), b"", bytes(rng.integers(0, 256, 5, dtype=np.uint8))][rng.integers(3)]
            data[place : place + 1] = change
        for decode in (picture_files.decode_labels, picture_files.decode_image):
            try:
                found = decode(bytes(data), "x")
            except UserError as error:
                assert "\n" not in str(error) and str(error).startswith("x ")
            else:
                assert found.dtype == np.uint8 and found.ndim == 2


HUGE = zlib.compress(bytes(1 << 24))
BOMBS = {
    "100,000 x 100,000 pixels": png((100_000, 100_000, 8, 0, 0, 0, 0), HUGE),
    "a chunk of 4 GB": png((8, 8, 8, 0, 0, 0, 0), b"")[:33] + b"\xff\xff\xff\xf0IDAT" + bytes(100),
    "16 MB where 72 bytes belong": png((8, 8, 8, 0, 0, 0, 0), HUGE),
    "a text of 16 MB": png((8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(72)), chunk(b"zTXt", b"a\0\0" + HUGE)),
    "no pixels": png((0, 8, 8, 0, 0, 0, 0), b""),
    "two headers": png((8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(72)), chunk(b"IHDR", bytes(13))),
    "animated": png((8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(72)), chunk(b"acTL", bytes(8))),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_or_harmless(kind):
    try:
        found = picture_files.decode_labels(BOMBS[kind], "x")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert kind == "a text of 16 MB" and not found.any() and found.shape == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_what_is_cut_short_is_refused(kind, share):
    whole = save(grey_image(), kind)
    for decode in (picture_files.decode_image, picture_files.decode_labels):
        with pytest.raises(UserError):
            decode(whole[: int(share * len(whole))], "x")


@pytest.mark.parametrize("kind", range(6))
def test_rows_of_each_filter_in_several_parts_are_read(kind):
    """Plain grey ones do without Pillow's reader of PNG files: as OpenCV has it, at sizes that leave bytes over."""
    for width, height in ((1, 1), (7, 3), (33, 32), (300, 5)):
        rows = np.random.default_rng(width).integers(0, 256, (height, 1 + width)).astype(np.uint8)
        rows[:, 0] = kind
        stream = zlib.compress(rows.tobytes())
        first = chunk(b"IDAT", stream[: len(stream) // 2])
        data = png((width, height, 8, 0, 0, 0, 0), stream[len(stream) // 2 :], first)
        if kind > 4:
            for decode in (picture_files.decode_image, picture_files.decode_labels):
                with pytest.raises(UserError, match="^x cannot be read as a picture"):
                    decode(data, "x")
            continue
        expected = decoded_by_opencv(data)[..., 0]
        assert np.array_equal(picture_files.decode_image(data, "x"), expected)
        assert np.array_equal(picture_files.decode_labels(data, "x"), expected)


def test_interlaced_pictures_are_read(tmp_path):
    """Adam7 of a size that leaves some passes short (OpenCV writes none, so by hand: PNG specification, 8.2)."""
    values = np.random.default_rng(0).integers(0, 256, (11, 6)).astype(np.uint8)
    rows = []
    for left, top, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                                    (0, 1, 1, 2)):  # fmt: skip
        rows += [b"\0" + row.tobytes() for row in values[top::down, left::across] if row.size]
    data = png((6, 11, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows)))
    assert np.array_equal(picture_files.decode_image(data, "x"), values)
    assert np.array_equal(decoded_by_opencv(data)[..., 0], values)
    short = png((6, 11, 8, 0, 0, 0, 1), zlib.compress(b"".join(rows[:-1])))
    with pytest.raises(UserError, match="less data"):
        picture_files.decode_image(short, "x")


def test_a_picture_that_is_to_be_turned_is_refused():
    with pytest.raises(UserError, match="orientation"):
        picture_files.decode_image(save(grey_image(), "TIFF", tiffinfo={274: 6}), "x")


def test_labels_say_what_is_wrong_with_them():
    for data, words in {
        save(label_map(), "JPEG"): "is a JPEG, which is no format for labels",
        save(channels(label_map(), 1, 0, 0)): "is a colour image",
        damaged(save(label_map())): "a checksum is wrong",
        b"": "is empty",
        b"text": "no PNG, JPEG, BMP or TIFF",
    }.items():
        with pytest.raises(UserError, match=words):
            picture_files.decode_labels(data, "x")

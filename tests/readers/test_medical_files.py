"""MHD and NIfTI files: whole or refused, with a geometry that can be believed or none, in bounded memory."""

import gzip
import math
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from command import UserError
from medical_images import believed_spacing, read_frame, read_medical_image, unknown_spacing

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.random.default_rng(0).integers(0, 256, (120, 90)).astype(np.uint8)
SPACING = (0.9, 0.8)  # lateral and depth, mm: 81 x 96 mm


def nifti(pixels: np.ndarray = PIXELS, spacing=SPACING, **fields) -> bytes:
    """A NIfTI-1 file by its definition; `fields` overrule the header's: by name, format, offset and value."""
    kinds = {"uint8": (2, 8), "int16": (4, 16), "float32": (16, 32), "float64": (64, 64)}
    sizes = [pixels.ndim, *pixels.shape[::-1], *[1] * (7 - pixels.ndim)]
    header = bytearray(348)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, *sizes)
    struct.pack_into("<2h", header, 70, *kinds[str(pixels.dtype)])
    struct.pack_into("<8f", header, 76, 1, *spacing, *[1] * (7 - len(spacing)))
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<B", header, 123, 2)
    header[344:348] = b"n+1\0"
    for form, offset, value in fields.values():
        struct.pack_into(form, header, offset, value)
    return bytes(header) + bytes(4) + pixels.tobytes()


def mhd(data: str, kind: str = "MET_UCHAR", pixels: np.ndarray = PIXELS, more: str = "") -> str:
    size = " ".join(map(str, pixels.shape[::-1]))
    return (
        f"ObjectType = Image\nNDims = 2\nDimSize = {size}\nElementType = {kind}\nElementSpacing = 0.9 0.8\n"
        f"{more}ElementDataFile = {data}\n"
    )


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_medical_image(path)
    assert "\n" not in str(caught.value) and "No such file" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII", "A.NII.GZ", "a.Nii.Gz", "a.b.nii"])
@pytest.mark.parametrize("packed", [True, False])
def test_nifti_under_every_spelling_packed_or_not(tmp_path, name, packed, table):
    (tmp_path / name).write_bytes(gzip.compress(nifti()) if packed else nifti())
    image = read_frame(tmp_path / name)
    assert np.array_equal(image.frames[0], PIXELS) and image.spacing_mm == pytest.approx(SPACING[::-1])
    table("NIfTI by name and content", name, "packed" if packed else "plain", "read")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": ("<i", 0, 540)}, "348"),
        ({"size": ("<i", 0, 1)}, "348"),
        ({"magic": ("<4s", 344, b"ni1\0")}, "348"),
        ({"start": ("<f", 108, 0.0)}, "data start at 0"),
        ({"start": ("<f", 108, 348.0)}, "data start at 348"),
        ({"start": ("<f", 108, 368.0)}, "truncated"),
        ({"start": ("<f", 108, math.nan)}, "data start at nan"),
        ({"start": ("<f", 108, 352.5)}, "data start at 352.5"),
        ({"width": ("<h", 42, 91)}, "truncated"),
        ({"width": ("<h", 42, 89)}, "more data"),
        ({"width": ("<h", 42, -90)}, "make no sense"),
        ({"axes": ("<h", 40, 9)}, "make no sense"),
        ({"bits": ("<h", 72, 16)}, "make no sense"),
        ({"kind": ("<h", 70, 4)}, "make no sense"),
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_its_data(tmp_path, fields, words):
    for name, content in {"a.nii": nifti(**fields), "a.nii.gz": gzip.compress(nifti(**fields))}.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.5, 0.99])
def test_files_cut_short(tmp_path, share):
    for name, content in {"a.nii": nifti(), "a.nii.gz": gzip.compress(nifti())}.items():
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        refused(tmp_path / name, "cannot be read|is empty")


def test_values_that_are_no_grey_levels(tmp_path):
    floats = PIXELS.astype(np.float32)
    for value in (np.nan, np.inf, 0.5, -1, 256):
        wrong = floats.copy()
        wrong[3, 4] = value
        (tmp_path / "a.nii").write_bytes(nifti(wrong))
        refused(tmp_path / "a.nii", "no whole numbers from 0 to 255")
    (tmp_path / "a.nii").write_bytes(nifti(floats))
    assert np.array_equal(read_frame(tmp_path / "a.nii").frames[0], PIXELS)


@pytest.mark.parametrize("value", [0.0, -0.9, math.nan, math.inf, 1e9, 1e-9, 0.2, 5.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_sizes_of_pixels_that_are_none_or_absurd_are_unknown(tmp_path, value, axis):
    spacing = [*SPACING]
    spacing[axis] = value
    (tmp_path / "a.nii").write_bytes(nifti(spacing=spacing))
    image = read_frame(tmp_path / "a.nii")
    assert image.spacing_mm is None and np.array_equal(image.frames[0], PIXELS)
    assert str(tmp_path) in unknown_spacing(tmp_path / "a.nii", image)


def test_what_nobody_measured_is_unknown_and_a_usual_field_of_view_is_not(tmp_path):
    assert believed_spacing((1.0, 1.0), (1.0, 1.0), (120, 90)) is None
    assert believed_spacing((1.0, 1.01), (1.0, 1.01), (120, 90)) == (1.01, 1.0)
    assert believed_spacing((0.3, 0.3), (0.3, 0.3), (99, 500)) is None  # 29.7 mm deep
    assert believed_spacing((0.3, 0.3), (0.3, 0.3), (101, 500)) == (0.3, 0.3)
    assert believed_spacing((0.3, 0.3), (0.3, 0.3), (101, 1334)) is None  # 400.2 mm wide


@pytest.mark.parametrize("kind", ["UCHAR", "SHORT", "USHORT", "INT", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["plain", "local", "compressed", "compressed local"])
def test_mhd_of_every_kind_is_read_whole_and_refused_short(tmp_path, kind, form, table):
    types = {"UCHAR": "u1", "SHORT": "<i2", "USHORT": "<u2", "INT": "<i4", "FLOAT": "<f4", "DOUBLE": "<f8"}
    raw = PIXELS.astype(types[kind]).tobytes()
    local, compressed = "local" in form, "compressed" in form
    header = tmp_path / ("a.mha" if local else "a.mhd")
    for cut, word in ((0, "true"), (0, "True"), (7, "true"), (len(raw) // 2, "TRUE")):
        data = zlib.compress(raw[: len(raw) - cut]) if compressed else raw[: len(raw) - cut]
        more = f"CompressedData = {word}\nCompressedDataSize = {len(data)}\n" if compressed else ""
        text = mhd("LOCAL" if local else "a.raw", f"MET_{kind}", more=more).encode()
        header.write_bytes(text + data if local else text)
        (tmp_path / "a.raw").write_bytes(data)
        if not cut:
            assert np.array_equal(read_frame(header).frames[0], PIXELS)
            assert read_frame(header).spacing_mm == pytest.approx((0.8, 0.9))
            continue
        refused(header, "truncated")
    if compressed:
        broken = data[: len(data) // 2]
        header.write_bytes(text + broken if local else text)
        (tmp_path / "a.raw").write_bytes(broken)
        refused(header, "end early|damaged")
    table("MHD", kind, form, "read; refused if short")


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "below/../../a.raw", "..\\a.raw", "C:\\a.raw"])
def test_data_files_elsewhere_are_not_opened(tmp_path, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "a.raw").write_bytes(PIXELS.tobytes())
    (tmp_path / "here/a.mhd").write_text(mhd(name))
    refused(tmp_path / "here/a.mhd", "do not lie beside it")


def test_data_below_the_header_are_read_and_missing_ones_told_as_missing(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.raw").write_bytes(PIXELS.tobytes())
    (tmp_path / "a.mhd").write_text(mhd("data/a.raw"))
    assert np.array_equal(read_frame(tmp_path / "a.mhd").frames[0], PIXELS)
    for data, words in {"b.raw": "b.raw is missing", "LIST": "is missing", "": "names no ElementDataFile"}.items():
        (tmp_path / "a.mhd").write_text(mhd(data))
        refused(tmp_path / "a.mhd", words)
    for change in ("DimSize = 90", "DimSize = 90 x", "DimSize = 0 120", "ElementType = MET_OTHER"):
        key = change.split(" =")[0]
        (tmp_path / "a.mhd").write_text(re.sub(rf"{key} = .*", change, mhd("data/a.raw")))
        with pytest.raises(UserError):
            read_frame(tmp_path / "a.mhd")


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "mhd", "mha"])
def test_changed_bytes_never_end_in_a_traceback_and_packed_ones_never_in_other_pixels(tmp_path, kind, table):
    rng = np.random.default_rng(1)
    path = tmp_path / f"a.{kind}"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    small = PIXELS[:40, :40]
    whole = {
        "nii": nifti(small), "nii.gz": gzip.compress(nifti(small)),
        "mhd": mhd("a.raw", pixels=small).encode(), "mha": mhd("LOCAL", pixels=small).encode() + small.tobytes(),
    }[kind]  # fmt: skip
    (tmp_path / "a.raw").write_bytes(small.tobytes())
    header = len(whole) if kind in ("nii.gz", "mhd") else len(whole) - small.size
    read = wrong = 0
    for _ in range(250):
        data, place = bytearray(whole), int(rng.integers(header))
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            image = read_medical_image(path)
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)
        else:
            read += 1
            wrong += not np.array_equal(image.pixels, small)
    if kind == "nii.gz":
        assert wrong == 0
    table("Single flipped bits", f"{kind} (header of those without checksums)", "flips", "250")
    table("Single flipped bits", f"{kind} (header of those without checksums)", "wrong pixels", str(wrong))


BOMB = """
import re, sys, time
sys.path.insert(0, {folder!r})
from pathlib import Path
from command import UserError
from {module} import {function}
start = time.monotonic()
try:
    {call}
except UserError as error:
    print("refused:", error)
most = re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]
print(round(time.monotonic() - start, 2), int(most) // 1024)
"""
TOO_MUCH = 10 << 30


@pytest.fixture(scope="module")
def ten_gigabytes() -> bytes:
    """A gzip stream of 10 GB of zeros, as one of many members of 256 MB each."""
    member = gzip.compress(bytes(1 << 28), 6)
    return member * (TOO_MUCH >> 28)


def zlib_bomb() -> bytes:
    """A zlib stream that goes on for 10 GB (its end is not reached)."""
    packer = zlib.compressobj(6)
    once = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = zlib.compressobj(6, zlib.DEFLATED, -15)
    piece = again.compress(bytes(1 << 26)) + again.flush(zlib.Z_FULL_FLUSH)
    return once + piece * (TOO_MUCH >> 26)


@pytest.mark.parametrize("kind", ["nii.gz", "mhd", "png", "huge header"])
def test_bombs_are_refused_within_a_gigabyte_and_five_seconds_of_work(tmp_path, kind, ten_gigabytes, table):
    """In a process of its own: the most memory that it ever had is counted, and the time it computed."""
    path = tmp_path / f"a.{kind.split()[0]}"
    module, function, call = "medical_images", "read_medical_image", f"read_medical_image(Path({str(path)!r}))"
    if kind == "nii.gz":
        path.write_bytes(gzip.compress(nifti()) + ten_gigabytes)
    elif kind == "mhd":
        path.write_text(mhd("a.raw", more="CompressedData = True\n"))
        (tmp_path / "a.raw").write_bytes(zlib_bomb())
    elif kind == "png":
        from reader_forms import png

        path.write_bytes(png((5000, 5000, 8, 0, 0, 0, 0), zlib_bomb()))
        module, function = "view_folders", "read_image"
        call = f"read_image(Path({str(path)!r}))"
    else:
        path = tmp_path / "a.nii"
        call = f"read_medical_image(Path({str(path)!r}))"
        path.write_bytes(nifti(wide=("<h", 42, 32767), high=("<h", 44, 32767)))
    code = BOMB.format(folder=str(ROOT / "data_preparation"), module=module, function=function, call=call)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("refused:"), done.stdout + done.stderr
    megabytes = int(done.stdout.split()[-1])
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert megabytes < 1024 and busy < 5 and time.monotonic() - began < 240
    table("Bombs", kind, "memory (MB)", str(megabytes))
    table("Bombs", kind, "seconds of processor, with imports", f"{busy:.1f}")

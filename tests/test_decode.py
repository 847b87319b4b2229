"""Decoding: a picture means the same whatever its file format stores, or it is refused; nothing is lost unsaid."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from invdenoise.data.decode import RAW_SUFFIXES, read_as, read_upright

RAMP = np.linspace(0, 1, 256)[None].repeat(4, 0)
SEEN = (np.arange(256, dtype=np.uint8))[None].repeat(4, 0)  # what a reader should see of it


def ramp(bits: int) -> np.ndarray:
    """The ramp with all its values within the lower `bits` of 16."""
    return (SEEN.astype(np.uint16) << (bits - 8)) | (SEEN.astype(np.uint16) >> max(0, 16 - bits))


def coloured(gray: np.ndarray) -> np.ndarray:
    return np.stack([gray, gray[:, ::-1], gray // 2], -1)


def with_alpha(pixels: np.ndarray, alpha: int) -> np.ndarray:
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.concatenate([pixels, np.full_like(pixels[..., :1], alpha)], -1)


def write_png(path: Path, pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> None:
    """A PNG of 16 bits, gray or colour, with or without opacity: most of these Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.reshape(height, width, -1).shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def write_netpbm(path: Path, pixels: np.ndarray, white: int, plain: bool = False) -> None:
    colour = pixels.ndim == 3
    magic = {(False, False): "P5", (True, False): "P6", (False, True): "P2", (True, True): "P3"}[colour, plain]
    header = f"{magic}\n# made by hand\n{pixels.shape[1]} {pixels.shape[0]}\n{white}\n".encode()
    body = " ".join(map(str, pixels.ravel())).encode() if plain else pixels.astype(">u2").tobytes()
    path.write_bytes(header + body)


def tiff(path: Path, pixels: np.ndarray, **options) -> None:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack" if pixels.ndim == 2 else "rgb"} | options)


def png(path: Path, pixels: np.ndarray) -> None:
    write_png(path, pixels)


def plain_netpbm(path: Path, pixels: np.ndarray) -> None:
    write_netpbm(path, pixels, 65535, plain=True)


WRITERS = {
    "png": png,
    "tif": tiff,
    "big-endian.tif": lambda path, pixels: tiff(path, pixels, byteorder=">"),
    "deflate.tif": lambda path, pixels: tiff(path, pixels, compression="zlib"),
    "predictor.tif": lambda path, pixels: tiff(path, pixels, compression="zlib", predictor=True),
    "tiles.tif": lambda path, pixels: tiff(path, pixels, tile=(16, 16)),
    "pnm": lambda path, pixels: write_netpbm(path, pixels, 65535),
    "plain.pnm": plain_netpbm,
}


# --- Bits in use


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("colour", [False, True], ids=["gray", "colour"])
@pytest.mark.parametrize("kind", WRITERS)
def test_all_grey_levels_survive_whatever_bits_are_in_use(tmp_path, kind, colour, bits):
    gray = ramp(bits)
    path = tmp_path / f"ramp.{kind}"
    WRITERS[kind](path, coloured(gray) if colour else gray)
    pixels, notes = read_upright(path)
    if colour:
        assert np.array_equal(pixels[..., 0], SEEN) and np.array_equal(pixels[..., 1], SEEN[:, ::-1])
        assert np.array_equal(pixels[..., 2], SEEN // 2)
    else:
        assert np.array_equal(pixels, SEEN)
    if bits == 16:
        assert notes == []
    else:
        assert len(notes) == 1 and f"so {bits} bits are taken to be in use, and {2**bits - 1} to be white" in notes[0]
        as_stored, notes = read_upright(path, bits=16)
        assert as_stored.max() == (2**bits - 1) >> 8 and notes == []


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("bits", [12, 16])
def test_opacity_does_not_hide_that_few_bits_are_in_use(tmp_path, kind, bits):
    for pixels in (ramp(bits), coloured(ramp(bits))):
        if kind == "tif" and pixels.ndim == 2:
            continue  # Pillow does not read 16-bit gray with opacity
        path = tmp_path / f"alpha{pixels.ndim}.{kind}"
        options = {} if kind == "png" else {"extrasamples": ["UNASSALPHA"]}
        (write_png if kind == "png" else tiff)(path, with_alpha(pixels, 65535), **options)
        found, notes = read_upright(path)
        assert np.array_equal(found if pixels.ndim == 2 else found[..., 0], SEEN)
        assert [note for note in notes if "transparent" in note] == [] and len(notes) == (bits < 16)


def test_half_transparent_16_bits_are_laid_on_white(tmp_path):
    write_png(tmp_path / "half.png", with_alpha(np.zeros((2, 2, 3), np.uint16), 32768))
    pixels, notes = read_upright(tmp_path / "half.png")
    assert pixels.shape == (2, 2, 3) and set(pixels.ravel().tolist()) <= {126, 127, 128}
    assert notes == ["transparent parts are laid on white"]
    gray = np.array([[0, 40000], [20000, 65535]], np.uint16)
    write_png(tmp_path / "key.png", gray, (b"tRNS", struct.pack(">H", 0)))  # the value 0 is transparent
    pixels, notes = read_upright(tmp_path / "key.png")
    assert pixels.tolist() == [[255, 156], [78, 255]] and notes == ["transparent parts are laid on white"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shape", [(4, 256), (4, 256, 3)])
@pytest.mark.parametrize("white", [1000, 4095])
def test_the_white_that_a_netpbm_file_declares(tmp_path, white, shape, plain):
    values = np.rint(RAMP * white).astype(np.uint16)
    values = values if len(shape) == 2 else np.stack([values] * 3, -1)
    write_netpbm(tmp_path / "a.pnm", values, white, plain)
    pixels, notes = read_upright(tmp_path / "a.pnm")
    assert pixels.shape == shape and notes == []
    assert np.abs(pixels.reshape(4, 256, -1)[..., 0].astype(int) - SEEN).max() <= 1
    dark = values // 4  # declared, so it is a dark picture
    write_netpbm(tmp_path / "a.pnm", dark, white, plain)
    pixels, notes = read_upright(tmp_path / "a.pnm")
    assert 62 <= pixels.max() <= 64 and notes == []


def test_twelve_packed_bits_are_declared(tmp_path):
    """TIFF with BitsPerSample 12: a dark picture stays dark."""
    values = np.array([[0, 1024], [16, 512]])
    pairs = values.reshape(-1, 2)
    packed = bytes(byte for a, b in pairs.tolist() for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255))
    entries = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, len(packed))]
    write_tiff(tmp_path / "packed.tif", packed, entries)
    pixels, notes = read_upright(tmp_path / "packed.tif")
    assert pixels.tolist() == [[0, 64], [1, 32]] and notes == []


def write_tiff(path: Path, pixels: bytes, entries: list[tuple[int, int]]) -> None:
    """A TIFF file whose tags all hold one number."""
    pixels += bytes(len(pixels) % 2)
    directory = struct.pack("<H", len(entries))
    for tag, value in sorted(entries):
        directory += struct.pack("<HHIHH", tag, 3, 1, value, 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4))


@pytest.mark.parametrize("bits", [0, 17, 12.0, True])
def test_bits_that_are_no_depth_are_refused(tmp_path, bits):
    png(tmp_path / "a.png", ramp(12))
    with pytest.raises(ValueError, match="bits is .*; expected how many of 16 bits are in use, 1 to 16"):
        read_upright(tmp_path / "a.png", bits)


def test_bits_that_do_not_fit_are_refused(tmp_path):
    png(tmp_path / "a.png", ramp(12))
    with pytest.raises(ValueError, match=r"a\.png does not fit into bits=10: its brightest value is 4095"):
        read_upright(tmp_path / "a.png", 10)
    Image.fromarray(SEEN).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has 8 bits a channel or fewer; leave out bits=12"):
        read_upright(tmp_path / "b.png", 12)


# --- Black and white


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_may_be_zero(tmp_path, bits, compression):
    path = tmp_path / "negative.tif"
    values = {1: RAMP > 0.5, 8: SEEN}.get(bits)
    values = ramp(bits) if values is None else values
    tifffile.imwrite(path, values, photometric="miniswhite", compression=compression)
    pixels, _ = read_upright(path)
    seen = np.where(RAMP > 0.5, 255, 0) if bits == 1 else SEEN
    assert np.array_equal(pixels, 255 - seen)


def test_a_declared_range_is_kept(tmp_path):
    def tags(kind: str, *ends):
        return [(tag, kind, 1, end, True) for tag, end in zip((340, 341), ends, strict=True)]

    for name, values, ends in (
        ("float", (RAMP * 50 - 10).astype(np.float32), ("f", -10.0, 40.0)),
        ("signed", np.rint(RAMP * 20000 - 10000).astype(np.int16), ("h", -10000, 10000)),
        ("unsigned", np.rint(RAMP * 3000 + 500).astype(np.uint16), ("H", 500, 3500)),
    ):
        for photometric in ("minisblack", "miniswhite"):
            if name == "signed" and photometric == "miniswhite":
                continue  # Pillow does not read it
            path = tmp_path / f"{name}-{photometric}.tif"
            tifffile.imwrite(path, values, photometric=photometric, extratags=tags(*ends))
            pixels, notes = read_upright(path)
            seen = SEEN.astype(int) if photometric == "minisblack" else 255 - SEEN.astype(int)
            assert np.abs(pixels - seen).max() <= 1 and notes == []
    tifffile.imwrite(tmp_path / "wrong.tif", ramp(12), extratags=tags("H", 0, 1000))
    with pytest.raises(ValueError, match=r"wrong\.tif declares values from 0 to 1000 .*, and has 0 to 4095"):
        read_upright(tmp_path / "wrong.tif")


def test_a_highest_value_declares_the_bits_in_use(tmp_path):
    def read(highest: int):
        tifffile.imwrite(tmp_path / "a.tif", ramp(12) // 4, extratags=[(281, "H", 1, highest, True)])
        pixels, notes = read_upright(tmp_path / "a.tif")
        return pixels.max(), len(notes)

    assert read(4095) == (63, 0)
    assert read(1023) == (255, 0)
    assert read(3987) == (255, 1)  # a statistic, no depth


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (RAMP.astype(np.float32), {}, "32-bit pixels, whose black and white are unknown; save it with 8 or 16 bits"),
        ((RAMP * 4e9).astype(np.uint32), {}, "32-bit pixels, whose black and white"),
        ((RAMP * 200 - 100).astype(np.int16), {}, "signed pixels, whose black and white"),
        ((RAMP * 200 - 100).astype(np.int8), {}, "signed pixels, whose black and white"),
        (RAMP, {}, "no picture that can be decoded"),
        (np.moveaxis(coloured(ramp(16)), -1, 0), {"planarconfig": "separate", "photometric": "rgb"}, "separate planes"),
        (
            np.moveaxis(coloured(ramp(16)), -1, 0),
            {"planarconfig": "separate", "photometric": "rgb", "compression": "zlib"},
            "separate planes",
        ),
        (coloured(SEEN), {"photometric": "cielab"}, "CIELAB colours"),
        (SEEN, {"photometric": "palette", "colormap": np.stack([np.arange(256, dtype=np.uint16)] * 3)}, "colour map of 8 bits"),
    ],
)  # fmt: skip
def test_numbers_of_unknown_meaning_are_refused(tmp_path, values, options, message):
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    for read in (read_upright, lambda path: read_as(path, "RGB")):
        with pytest.raises(ValueError, match=rf"a\.tif .*{message}"):
            read(tmp_path / "a.tif")


def test_a_tiff_that_does_not_say_what_zero_means_is_refused(tmp_path):
    entries = [(256, 2), (257, 2), (258, 8), (259, 1), (273, 8), (277, 1), (278, 2), (279, 4)]
    write_tiff(tmp_path / "a.tif", bytes(4), entries)
    with pytest.raises(ValueError, match=r"a\.tif does not say whether 0 is black or white"):
        read_upright(tmp_path / "a.tif")
    write_tiff(tmp_path / "a.tif", bytes(4), [*entries, (262, 1)])
    assert read_upright(tmp_path / "a.tif")[0].tolist() == [[0, 0], [0, 0]]


def test_formats_with_a_scale_of_their_own_are_refused(tmp_path):
    cards = (("SIMPLE", "T"), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", 4), ("NAXIS2", 4), ("BZERO", 32768))
    header = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in cards) + "END"
    (tmp_path / "stars.fits").write_bytes(header.ljust(2880).encode() + bytes(2880))
    with pytest.raises(ValueError, match=r"stars\.fits is a file of format FITS, whose scale is unknown here"):
        read_upright(tmp_path / "stars.fits")
    Image.fromarray(SEEN).save(tmp_path / "deep.sgi", bpc=2)
    with pytest.raises(ValueError, match=r"deep\.sgi has 16 bits a channel, which are not read from SGI"):
        read_upright(tmp_path / "deep.sgi")
    (tmp_path / "float.pfm").write_bytes(b"Pf 2 2 -1.0\n" + bytes(16))
    with pytest.raises(ValueError, match="32-bit pixels"):
        read_upright(tmp_path / "float.pfm")


@pytest.mark.skipif(".jp2" not in Image.registered_extensions(), reason="Pillow was built without JPEG 2000")
def test_jpeg2000(tmp_path):
    Image.fromarray(ramp(12)).save(tmp_path / "gray.jp2")
    pixels, notes = read_upright(tmp_path / "gray.jp2")
    assert np.array_equal(pixels, SEEN) and len(notes) == 1
    Image.fromarray(coloured(SEEN)).save(tmp_path / "colour.jp2")
    assert np.array_equal(read_upright(tmp_path / "colour.jp2")[0], coloured(SEEN))
    content = (tmp_path / "colour.jp2").read_bytes()
    place = content.index(b"\xff\x4f\xff\x51") + 42
    for depth, message in ((11, "more than 8 bits a channel"), (0x80 | 7, "signed pixels")):
        changed = bytearray(content)
        changed[place : place + 9 : 3] = bytes([depth]) * 3
        (tmp_path / "other.jp2").write_bytes(changed)
        with pytest.raises(ValueError, match=rf"other\.jp2 .*({message}|cannot be decoded)"):
            read_upright(tmp_path / "other.jp2")


# --- 8 bits stay as they were


STORES = {"png": "1 L P RGB", "tif": "1 L P RGB CMYK YCbCr", "bmp": "1 L P RGB", "gif": "1 L P RGB", "webp": "L RGB"}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in STORES.items() for mode in modes.split()]
)
def test_eight_bits_are_what_pillow_makes_of_them(tmp_path, mode, suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as stored:
        expected = {one: np.array(stored.convert(one)) for one in ("L", "RGB")}
        gray = stored.mode in ("1", "L")
    assert np.array_equal(read_upright(path)[0], expected["L" if gray else "RGB"])
    for one in ("L", "RGB"):
        assert np.array_equal(read_as(path, one), expected[one])


# --- Raw files and previews


def ifd(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF directory of (tag, type, count, value) without a next one."""
    content = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        number = struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value)
        content += struct.pack("<HHI", tag, kind, count) + number
    return content + bytes(4)


def raw_file(path: Path, flag: int = 1, dng: bool = True, large: int = 32) -> None:
    """A TIFF file with a colour picture of 8x8 that has a `large` x `large` picture in a sub-directory."""
    small, full, bits = bytes(8 * 8 * 3), bytes(2 * large * large), struct.pack("<HHH", 8, 8, 8)
    at_full = 8 + len(small)
    at_bits = at_full + len(full)
    at_sub = at_bits + len(bits)
    sub = ifd(
        [(254, 4, 1, 0), (256, 4, 1, large), (257, 4, 1, large), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
        + [(273, 4, 1, at_full), (277, 3, 1, 1), (278, 4, 1, large), (279, 4, 1, len(full))]
    )
    main = [(254, 4, 1, flag), (256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 3, at_bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    main += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, 8), (279, 4, 1, len(small)), (330, 4, 1, at_sub)]
    main += [(50706, 1, 4, 0x401)] if dng else []
    start = b"II*\0" + struct.pack("<I", at_sub + len(sub))
    path.write_bytes(start + small + full + bits + sub + ifd(main))


@pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.tif", "a.png"])
@pytest.mark.parametrize(("flag", "dng"), [(1, True), (1, False), (0, True), (0, False)])
def test_a_raw_file_is_not_read_as_its_preview(tmp_path, name, flag, dng):
    raw_file(tmp_path / name, flag, dng)
    with pytest.raises(ValueError, match=rf"{name} is a camera's raw file, .*develop it first"):
        read_upright(tmp_path / name)


def test_a_picture_with_smaller_copies_of_itself_is_no_raw_file(tmp_path):
    raw_file(tmp_path / "pyramid.tif", flag=0, dng=False, large=4)
    assert read_upright(tmp_path / "pyramid.tif")[0].shape == (8, 8, 3)


def test_a_raw_file_that_is_no_tiff_is_told_by_its_name(tmp_path):
    for suffix in RAW_SUFFIXES:
        (tmp_path / f"a{suffix}").write_bytes(b"FUJIFILMCCD-RAW 0201")
        with pytest.raises(ValueError, match="is a camera's raw file"):
            read_upright(tmp_path / f"a{suffix}")


# --- What is left out is said


def test_only_the_first_page_is_read_and_that_is_said(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), 40 * number, np.uint8)) for number in range(1, 5)]
    for name, what in (("a.tif", "pages"), ("a.gif", "frames"), ("a.png", "frames"), ("a.webp", "frames")):
        lossless = {"lossless": True} if name.endswith("webp") else {}
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **lossless)
        pixels, notes = read_upright(tmp_path / name)
        assert np.abs(pixels.astype(int) - 40).max() <= 1 and notes == [f"only the first of 4 {what} is read"]
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((7, 8, 8), np.uint8), imagej=True)
    assert read_upright(tmp_path / "stack.tif")[1] == ["only the first of 7 pages is read"]
    with tifffile.TiffWriter(tmp_path / "preview.tif") as file:
        file.write(np.zeros((8, 8), np.uint8))
        file.write(np.zeros((4, 4), np.uint8), subfiletype=1)
    assert read_upright(tmp_path / "preview.tif")[1] == []


def test_a_profile_other_than_srgb_is_dropped_and_that_is_said(tmp_path):
    for name, expected in (("sRGB", []), ("XYZ", [r"its colour profile (XYZ identity built-in) is dropped"])):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
        for suffix in ("png", "tif", "jpg", "webp"):
            Image.fromarray(coloured(SEEN)).save(tmp_path / f"a.{suffix}", icc_profile=profile)
            assert [note[: len(expected[0])] for note in read_upright(tmp_path / f"a.{suffix}")[1]] == expected
    Image.fromarray(SEEN).save(tmp_path / "b.png", icc_profile=b"none")
    assert "(unreadable)" in read_upright(tmp_path / "b.png")[1][0]


def test_inks_and_further_channels_are_said(tmp_path):
    Image.fromarray(coloured(SEEN)).convert("CMYK").save(tmp_path / "a.jpg")
    assert "CMYK" in read_upright(tmp_path / "a.jpg")[1][0]
    tiff(tmp_path / "a.tif", with_alpha(coloured(SEEN), 9), extrasamples=["UNSPECIFIED"])
    pixels, notes = read_upright(tmp_path / "a.tif")
    assert np.array_equal(pixels, coloured(SEEN)) and notes == ["1 further channel of unknown meaning left out"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("tif", np.uint16)]
)
def test_pictures_are_turned_upright_whatever_their_depth(tmp_path, orientation, suffix, dtype):
    stored = np.arange(6).reshape(2, 3).astype(dtype) * (40 if dtype == np.uint8 else 13000)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    levels = (stored >> 8 if dtype == np.uint16 else stored).astype(np.uint8)
    upright = {1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1], 5: levels.T,
               6: levels[::-1].T, 7: levels[::-1, ::-1].T, 8: levels.T[::-1]}[orientation]  # fmt: skip
    assert np.array_equal(read_upright(path)[0], upright)


# --- Damaged files


def damaged(folder: Path):
    content = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for suffix in ("png", "jpg", "tif", "bmp", "gif", "webp", "ppm", "avif", "jp2", "tga"):
        path = folder / f"whole.{suffix}"
        try:
            Image.fromarray(content).save(path)
        except (OSError, KeyError, ValueError):  # a format that this Pillow lacks
            continue
        yield suffix, path.read_bytes()


def test_a_damaged_file_is_a_value_error_that_names_it(tmp_path):
    """Cut anywhere, or with bytes overwritten: read as a picture or refused, never another error, never a nameless one."""
    rng = np.random.default_rng(0)
    refused = 0
    for suffix, content in damaged(tmp_path):
        for number in range(12):
            spoilt = bytearray(content[: rng.integers(1, len(content))] if number % 2 else content)
            for place in rng.integers(0, len(spoilt), 0 if number % 2 else 30):
                spoilt[place] = rng.integers(256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(spoilt)
            for read in (read_upright, lambda path: read_as(path, "RGB")):
                try:
                    read(path)
                except ValueError as error:
                    refused += 1
                    assert f"damaged.{suffix}" in str(error)
    assert refused > 60
    (tmp_path / "cut.pgm").write_bytes(b"P5\n160 128\n4095\n" + bytes(9000))
    with pytest.raises(ValueError, match=r"cut\.pgm cannot be decoded, it breaks off or is damaged"):
        read_upright(tmp_path / "cut.pgm")

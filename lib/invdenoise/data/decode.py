"""Picture files as pixels, by what their numbers mean: bits in use, black and white, order of colours.

Pixels have 8 bits, or are as the file stores them (`read_stored`). A file whose black and white are unknown is refused. What is
assumed or left out is told in a note.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# Formats whose scale this module knows. Pillow reads others too, such as FITS, whose offset and scale it ignores.
FORMATS = (
    "PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "GIF", "WEBP", "AVIF", "HEIF", "PPM", "JPEG2000", "TGA", "PCX", "ICO", "SGI", "PSD",
)  # fmt: skip
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
)  # fmt: skip

# TIFF tags (TIFF 6.0; the last one from the DNG specification)
SUBFILE, PHOTOMETRIC, BITS, STRIP_BYTES, MAX_SAMPLE, PLANAR, COLOUR_MAP = 254, 262, 258, 279, 281, 284, 320
SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, SMIN, SMAX, DESCRIPTION, DNG_VERSION = 330, 338, 339, 340, 341, 270, 50706
REDUCED, MASK = 1, 4  # flags of SUBFILE
WHITE_IS_ZERO, YCBCR, COLOUR_FILTER_ARRAY, LINEAR_RAW = 0, 6, 32803, 34892
UNSIGNED, SIGNED = 1, 2  # values of SAMPLE_FORMAT

ORIENTATION, INTEROPERABILITY = 0x0112, 0xA005  # EXIF
SRGB_GAMMA = 0.45455  # as PNG stores it

GRAY = ("1", "L", "LA", "La")  # modes without colour
TAKE_ALL_BITS = "; give bits=16 to take the values as they are"  # the remedy of `read_upright`


class Refused(ValueError):
    """A picture whose numbers have no known meaning."""


def read_upright(path: Path, bits: int | None = None) -> tuple[np.ndarray, list[str]]:
    """The pixels of a picture, upright, on white where it is transparent; and what was assumed or left out.

    Args:
        path: an existing file.
        bits: how many bits of each 16-bit number are in use, 1 to 16; None goes by the file and by the brightest pixel.

    Returns:
        uint8 `(H, W)` gray or `(H, W, 3)` colour, and notes such as "only the first of 4 pages is read".

    Raises:
        ValueError: damaged, no picture, or a picture whose black and white are unknown; the message names the file.
    """
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16):
        raise ValueError(f"bits is {bits!r}; expected how many of 16 bits are in use, 1 to 16")
    notes: list[str] = []

    def decode(image: Image.Image) -> np.ndarray:
        notes.extend(_left_out(image, path))
        return _upright(_eight_bits(image, path, bits, notes), notes)

    return _opened(path, decode), notes


@dataclass(frozen=True, eq=False)
class Stored:
    """A picture with the numbers of its file, upright.

    Attributes:
        values: uint8 or uint16, `(H, W)` gray or `(H, W, 3)` colour.
        alpha: opacity, `(H, W)` of the same type; None where the file has none.
        black, white: the numbers that mean black and white.
        profile: ICC profile of the values; empty where the file has none.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    black: float
    white: float
    profile: bytes

    def pixels(self) -> np.ndarray:
        """The values as float32, black at 0 and white at 1."""
        return ((self.values - self.black) / (self.white - self.black)).astype(np.float32)

    def with_pixels(self, pixels: np.ndarray) -> Stored:
        """The same picture with other pixels of the same shape and scale; they are clipped to [0, 1], then rounded."""
        values = pixels.astype(np.float64).clip(0, 1) * (self.white - self.black) + self.black
        return replace(self, values=np.rint(values).astype(self.values.dtype))


def read_stored(path: Path) -> tuple[Stored, list[str]]:
    """A picture at the depth of its file, with its opacity and colour profile; and what was assumed or left out.

    Args:
        path: an existing file.

    Raises:
        ValueError: as `read_upright`; also more than 16 bits a channel, and inks or premultiplied colours of 16 bits.
    """
    notes: list[str] = []

    def decode(image: Image.Image) -> Stored:
        inks = image.mode == "CMYK"  # their profile does not fit RGB
        profile = b"" if inks else image.info.get("icc_profile") or b""
        notes.extend(_left_out(image, path, keeps_profile=bool(profile)))
        deep = _deep(image, path, None, notes)
        if deep is None:
            return _stored_8_bits(image, profile)
        premultiplied = any(_raw_mode(tile).startswith("RGBa") for tile in image.tile)
        if deep.values.dtype != np.uint16 or inks or premultiplied:
            what = "inks" if inks else "premultiplied colours" if premultiplied else "more than 16 bits"
            raise Refused(
                f"{path} has {what} of more than 8 bits, which would not be kept; save it as RGB of 8 or 16 bits"
            )
        values, alpha = deep.values, deep.alpha
        if deep.inverted:
            values = (deep.black + deep.white - values).astype(np.uint16)
        if alpha is not None and deep.opaque != 65535:
            alpha = np.rint(alpha / deep.opaque * 65535).astype(np.uint16)
        turned = _turned(values, image)
        return Stored(turned, None if alpha is None else _turned(alpha, image), deep.black, deep.white, profile)

    stored = _opened(path, decode)
    return stored, [note.removesuffix(TAKE_ALL_BITS) for note in notes]


def _stored_8_bits(image: Image.Image, profile: bytes) -> Stored:
    upright, alpha = ImageOps.exif_transpose(image), None
    gray = upright.mode in GRAY
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.array(upright.getchannel("A"))
    return Stored(np.array(upright.convert("L" if gray else "RGB")), alpha, 0, 255, profile)


def _turned(values: np.ndarray, source: Image.Image) -> np.ndarray:
    """16-bit values `(H, W)` or `(H, W, C)`, upright, without an axis of one channel."""
    planes = []
    for plane in np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0):
        picture = Image.fromarray(np.ascontiguousarray(plane, np.uint16))
        _set_orientation(picture, source)
        planes.append(np.array(ImageOps.exif_transpose(picture)))
    return planes[0] if len(planes) == 1 else np.stack(planes, -1)


def read_as(path: Path, mode: str) -> np.ndarray:
    """The pixels of a dataset's picture in mode "L" or "RGB", uint8, as stored: neither turned nor laid on white.

    Raises:
        ValueError: damaged, no picture, or a picture whose black and white are unknown; the message names the file.
    """
    return _opened(path, lambda image: np.array(_eight_bits(image, path, None, []).convert(mode)))


def _opened(path: Path, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `decode` makes of a picture, after checks of the file. Every error is a ValueError that names the file."""
    raw = Refused(
        f"{path} is a camera's raw file, of which only a preview could be read; develop it first, and save it as TIFF or PNG"
    )
    if path.suffix.lower() in RAW_SUFFIXES:
        raise raw
    try:
        with _open(path) as image:
            if image.format not in FORMATS:
                raise Refused(
                    f"{path} is a file of format {image.format}, whose scale is unknown here; save it as PNG or TIFF"
                )
            if image.format == "TIFF":
                if _is_raw(image, path):
                    raise raw
                _check_tiff(image, path)
            if image.format == "JPEG2000":
                _check_jpeg2000(image, path)
            return decode(image)
    except (Refused, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no picture that can be decoded; save it as PNG, JPEG or TIFF") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}; cut or shrink it") from None
    except Exception as error:  # decoders raise whatever they stumble over, and seldom name the file
        raise ValueError(f"{path} cannot be decoded, it breaks off or is damaged ({error}); save it again") from None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """A picture that Pillow opens by a handle: by its name, Pillow maps it into memory, and garbles a TIFF file on its side."""
    with open(path, "rb") as file, Image.open(file) as image:
        yield image


# --- What the numbers mean


@dataclass(frozen=True, eq=False)
class _Deep:
    """Numbers of more than 8 bits, as decoded and not yet turned.

    Attributes:
        values: `(H, W)` or `(H, W, C)`, without opacity.
        alpha: opacity, `(H, W, 1)`, where `opaque` is fully opaque; or None.
        black, white: the numbers that mean black and white.
        inverted: `values` are still to be inverted.
    """

    values: np.ndarray
    alpha: np.ndarray | None
    opaque: float
    black: float
    white: float
    inverted: bool


def _eight_bits(image: Image.Image, path: Path, bits: int | None, notes: list[str]) -> Image.Image:
    """The picture with 8 bits a channel or fewer. The upper 8 bits of those in use are kept."""
    deep = _deep(image, path, bits, notes)
    if deep is None:
        return image
    levels = _levels(deep.values, deep.black, deep.white)
    if deep.inverted:
        levels = 255 - levels
    if deep.alpha is not None:
        levels = np.dstack([levels, _levels(deep.alpha, 0, deep.opaque)])
    return _image_of(levels, image)


def _deep(image: Image.Image, path: Path, bits: int | None, notes: list[str]) -> _Deep | None:
    """The numbers of a picture of more than 8 bits a channel, and what they mean; None for another one."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode == "CMYK":
        notes.append("inks (CMYK) are converted to RGB without a profile, so colours are approximate")
    white = None  # the number that the file declares to be white
    if (netpbm := _netpbm(image, path)) is not None:
        samples, white = netpbm
    elif image.mode.startswith("I;16"):
        samples = np.array(image).astype(np.uint16)
        declared = tags.get(BITS, (16,))[0]
        white = 2**declared - 1 if declared < 16 else None
    elif _deep_colour(image):
        samples = _sixteen_bits(image, path)
    elif image.mode in ("I", "F"):
        samples = np.array(image)
    else:
        if bits is not None:
            raise Refused(f"{path} has 8 bits a channel or fewer; leave out bits={bits}")
        if image.mode == "LAB":
            raise Refused(f"{path} has CIELAB colours, which need a profile; convert it to RGB")
        return None

    opaque = samples[..., :-1] if samples.ndim == 3 and samples.shape[2] in (2, 4) and image.mode != "CMYK" else samples
    integers = samples.dtype == np.uint16
    black, white = _declared_range(tags, opaque, path) or (0, white)
    if white is None and not integers:
        kind = "signed" if SIGNED in tags.get(SAMPLE_FORMAT, ()) else "32-bit"
        raise Refused(f"{path} has {kind} pixels, whose black and white are unknown; save it with 8 or 16 bits")
    if bits is not None:
        if not integers or int(opaque.max()) >= 2**bits:
            raise Refused(f"{path} does not fit into bits={bits}: its brightest value is {opaque.max()}")
        black, white = 0, 2**bits - 1
    if white is None:
        white = _white_of_bits_in_use(int(opaque.max()), notes)
    alpha, top = None, white
    if opaque is not samples:  # the last channel is opacity
        alpha = samples[..., -1:]
        top = 65535 if int(alpha.max()) > white else white
    elif isinstance(key := image.info.get("transparency"), (int, tuple)):  # PNG: the colour that is transparent
        hidden = (samples.reshape(*samples.shape[:2], -1) == np.array(key)).all(-1)
        alpha, top = np.where(hidden, 0, 65535).astype(np.uint16)[..., None], 65535
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO  # Pillow inverts 8 bits only
    return _Deep(opaque, alpha, top, black, white, inverted)


def _levels(samples: np.ndarray, black: float, white: float) -> np.ndarray:
    """Grey levels 0 to 255. For integers of n bits these are the upper 8 bits."""
    if samples.dtype.kind == "f":
        return np.rint((samples.astype(np.float64) - black) * (255 / (white - black))).astype(np.uint8)
    scaled = (samples.astype(np.float64) - black) * (256 / (white - black + 1))
    return np.floor(scaled).clip(0, 255).astype(np.uint8)


def _white_of_bits_in_use(brightest: int, notes: list[str]) -> int:
    """White of 16-bit numbers without a declared range: the next of 8, 10, 12, 14 bits above the brightest, or 16.

    Sensors have such depths. A picture that needs the 15th bit is at least half as bright as the 16-bit white allows, save for
    one whose brightest number is exactly the last of 15 bits.
    """
    used = max(8, brightest.bit_length())
    used += used % 2 if used < 15 else 0
    if brightest == 0 or used > 14 and brightest != 2**15 - 1:
        return 65535
    notes.append(
        f"its brightest value is {brightest} of 65535, so {used} bits are taken to be in use, and {2**used - 1} to be white"
        f"{TAKE_ALL_BITS}"
    )
    return 2**used - 1


def _deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would reduce 16 bits a channel to 8 without a word."""
    deep = any(re.search(r";16[BLN]$", _raw_mode(tile)) or tile.codec_name == "SGI16" for tile in image.tile)
    return deep and not image.mode.startswith("I")


def _raw_mode(tile: Any) -> str:
    first = tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]
    return first if isinstance(first, str) else ""


def _sixteen_bits(image: Image.Image, path: Path) -> np.ndarray:
    """All 16 bits of each channel, uint16 `(H, W, C)`. Pillow gives one byte at a time, so it decodes twice."""
    if image.format not in ("PNG", "TIFF"):
        raise Refused(f"{path} has 16 bits a channel, which are not read from {image.format}; save it as PNG or TIFF")
    raw_mode = _raw_mode(image.tile[0])
    if raw_mode == "LA;16B":  # four bytes a pixel, as RGBA has
        both = _decoded_as(path, "RGBA").astype(np.uint16)
        return both[..., ::2] << 8 | both[..., 1::2]
    order = raw_mode[-1] if raw_mode[-1] != "N" else "L" if sys.byteorder == "little" else "B"
    bands = raw_mode[:-1].replace("RGBa", "RGBA")  # as stored, see _image_of
    upper = _decoded_as(path, bands + order)
    lower = _decoded_as(path, bands + ("L" if order == "B" else "B"))
    return upper.astype(np.uint16) << 8 | lower


def _decoded_as(path: Path, raw_mode: str) -> np.ndarray:
    with _open(path) as image:
        image.tile = [
            tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
            for tile in image.tile
        ]
        return np.array(image)


def _image_of(levels: np.ndarray, source: Image.Image) -> Image.Image:
    """A picture of these levels that is to be turned as `source` is."""
    size = levels.shape[1::-1]
    premultiplied = any(_raw_mode(tile).startswith("RGBa") for tile in source.tile)
    four = "CMYK" if source.mode == "CMYK" else "RGBa" if premultiplied else "RGBA"
    mode = "L" if levels.ndim == 2 else {2: "LA", 3: "RGB", 4: four}[levels.shape[2]]
    picture = Image.frombytes(mode, size, np.ascontiguousarray(levels).tobytes())
    _set_orientation(picture, source)
    return picture.convert("RGBA") if premultiplied else picture


def _set_orientation(picture: Image.Image, source: Image.Image) -> None:
    """Let a picture made of the pixels of `source` be turned as that is."""
    if source.format != "TIFF":  # Pillow turns those on loading
        picture.getexif()[ORIENTATION] = source.getexif().get(ORIENTATION, 1)


def _netpbm(image: Image.Image, path: Path) -> tuple[np.ndarray, int | None] | None:
    """The numbers of a PGM or PPM file of more than 8 bits, and its white (None for 65535); None for another file.

    Pillow would reduce those of colour pictures to 8 bits.
    """
    if image.format != "PPM" or image.mode not in ("I", "RGB"):
        return None
    content = path.read_bytes()
    header = re.match(rb"P([2356])" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)" + rb"\s", content)
    if not header:
        raise ValueError("the header breaks off")
    kind, width, height, white = header[1], *map(int, header.groups()[1:])
    if white < 256:
        return None
    shape = (height, width) if kind in b"25" else (height, width, 3)
    number = int(np.prod(shape))
    if kind in b"56":
        samples = np.frombuffer(content, ">u2", number, header.end())
    else:
        words = re.sub(rb"#[^\r\n]*", b"", content[header.end() :]).split()[:number]
        samples = np.array([int(word) for word in words])
    if len(samples) < number or int(samples.max()) > white or int(samples.min()) < 0:
        raise ValueError(f"expected {number} values up to {white}")
    return samples.astype(np.uint16).reshape(shape), None if white == 65535 else white


# --- TIFF


def _is_raw(image: Image.Image, path: Path) -> bool:
    """Whether a TIFF file is a camera's raw file, or begins with a preview of another picture in it."""
    tags = image.tag_v2
    with open(path, "rb") as file:
        canon = file.read(10)[8:] == b"CR"
    if canon or DNG_VERSION in tags or tags.get(PHOTOMETRIC) in (COLOUR_FILTER_ARRAY, LINEAR_RAW):
        return True
    reduced = bool(tags.get(SUBFILE, 0) & REDUCED)
    if SUB_IFDS not in tags and not (reduced and image.n_frames > 1):
        return False
    from tifffile import TiffFile  # imported here to start fast

    with TiffFile(path) as file:
        first = file.pages[0]
        inside = list(first.pages or ())
        areas = [page.imagewidth * page.imagelength for page in inside + (list(file.pages[1:]) if reduced else [])]
    return any(area > first.imagewidth * first.imagelength for area in areas)


def _check_tiff(image: Image.Image, path: Path) -> None:
    """Refuse TIFF files that Pillow reads wrongly."""
    tags, raw = image.tag_v2, image.info.get("compression") == "raw"
    if PHOTOMETRIC not in tags and image.info.get("compression") != "tiff_jpeg":
        raise Refused(f"{path} does not say whether 0 is black or white (PhotometricInterpretation); save it again")
    formats = tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if image.mode not in ("I", "F") and set(formats) != {UNSIGNED}:
        raise Refused(f"{path} has signed pixels, whose black and white are unknown; save it with 8 or 16 bits")
    if tags.get(PLANAR) == 2 and 16 in tags.get(BITS, ()):
        raise Refused(f"{path} has 16 bits in separate planes; save it with its channels interleaved (contiguous)")
    if raw and tags.get(PHOTOMETRIC) == YCBCR and sum(tags.get(STRIP_BYTES, ())) != 3 * image.width * image.height:
        raise Refused(f"{path} has subsampled YCbCr colours; save it as RGB")
    if COLOUR_MAP in tags and image.mode in ("P", "PA") and 0 < max(tags[COLOUR_MAP]) < 256:
        raise Refused(f"{path} has a colour map of 8 bits where 16 are due, so it is nearly black; save it as RGB")


def _declared_range(tags: Any, samples: np.ndarray, path: Path) -> tuple[float, float] | None:
    """Black and white as a TIFF file declares them, for pictures of more than 8 bits; None if it does not.

    SMinSampleValue and SMaxSampleValue are a range. MaxSampleValue is a statistic by the standard; it counts only where
    it is the last number of so many bits.
    """
    lowest, highest = float(samples.min()), float(samples.max())
    if SMAX in tags:
        ends = [tags.get(tag, default) for tag, default in ((SMIN, 0), (SMAX, 0))]
        ends = [{float(one) for one in (end if isinstance(end, tuple) else (end,))} for end in ends]
        if any(len(end) != 1 for end in ends):
            raise Refused(f"{path} declares another range for each channel (SMaxSampleValue); save it with 8 bits")
        black, white = (end.pop() for end in ends)
        if not black <= lowest <= highest <= white or black == white:
            raise Refused(
                f"{path} declares values from {black:g} to {white:g} (SMinSampleValue, SMaxSampleValue), and has {lowest:g} "
                f"to {highest:g}; save it with 8 or 16 bits"
            )
        return black, white
    white = tags.get(MAX_SAMPLE)
    white = white[0] if isinstance(white, tuple) else white
    if samples.dtype == np.uint16 and white in {2**bits - 1 for bits in range(9, 16)} and highest <= white:
        return 0, white
    return None


def _check_jpeg2000(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would reduce to 8 bits, or take for unsigned."""
    content = path.read_bytes()
    start = content.find(b"\xff\x4f\xff\x51")  # start of the codestream, then the marker SIZ (ISO 15444-1, A.5.1)
    if start < 0:
        return
    channels = int.from_bytes(content[start + 40 : start + 42], "big")
    depths = content[start + 42 : start + 42 + 3 * channels : 3]
    if any(depth & 0x80 for depth in depths):
        raise Refused(f"{path} has signed pixels, whose black and white are unknown; save it as PNG or TIFF")
    if any(depth + 1 > 8 for depth in depths) and not image.mode.startswith("I"):
        raise Refused(
            f"{path} has more than 8 bits a channel, which are not read from JPEG 2000; save it as PNG or TIFF"
        )


# --- What is left out


def _left_out(image: Image.Image, path: Path, keeps_profile: bool = False) -> list[str]:
    notes = []
    if (pages := _num_pages(image, path)) > 1:
        notes.append(f"only the first of {pages} {'pages' if image.format == 'TIFF' else 'frames'} is read")
    if image.format == "TIFF" and 0 in (extra := image.tag_v2.get(EXTRA_SAMPLES, ())):
        notes.append(f"{extra.count(0)} further channel{'s' if extra.count(0) > 1 else ''} of unknown meaning left out")
    if not keeps_profile and (profile := _profile(image)):
        notes.append(
            f"its colour profile ({profile}) is dropped, so colours may differ; convert it to sRGB to keep them"
        )
    return notes


def _num_pages(image: Image.Image, path: Path) -> int:
    """Pages or frames of a file; previews and masks of a TIFF page do not count."""
    # ImageJ writes one directory for all pages of a large stack, and their number into the description.
    if image.format == "TIFF" and (
        stack := re.match(r"ImageJ=.*?\bimages=(\d+)", str(image.tag_v2.get(DESCRIPTION, "")), re.DOTALL)
    ):
        return int(stack[1])
    with _open(path) as again:  # counting may change the mode of a picture
        frames = getattr(again, "n_frames", 1)
        if image.format != "TIFF":
            return frames
        flags = []
        for frame in range(1, frames):
            again.seek(frame)
            flags.append(again.tag_v2.get(SUBFILE, 0))
    return 1 + sum(not flag & (REDUCED | MASK) for flag in flags)


def _profile(image: Image.Image) -> str:
    """The name of a profile other than sRGB; empty if there is none."""
    if content := image.info.get("icc_profile"):
        try:
            name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(content))).strip()
        except (ImageCms.PyCMSError, OSError):
            name = "unreadable"
        return "" if "srgb" in name.lower() else name or "unnamed"
    gamma = image.info.get("gamma")
    if gamma and "srgb" not in image.info and abs(gamma - SRGB_GAMMA) > 0.02:
        return f"gamma {1 / gamma:.2g}"
    if image.format in ("JPEG", "MPO") and image.getexif().get_ifd(INTEROPERABILITY).get(1) == "R03":
        return "Adobe RGB"  # as cameras mark it
    return ""


def _upright(image: Image.Image, notes: list[str]) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    gray = image.mode in GRAY
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("transparent parts are laid on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("L" if gray else "RGB"))

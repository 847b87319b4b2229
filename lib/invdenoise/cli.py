"""The command `invdenoise`: denoise pictures of one's own.

invdenoise denoise photo.jpg scans/ --out denoised
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invdenoise import papers
from invdenoise.checks import check_sigma
from invdenoise.data.decode import read_stored
from invdenoise.data.fetch import dataset_ids, describe
from invdenoise.data.pictures import SUFFIXES, picture_file, write_stored
from invdenoise.files import check_writable
from invdenoise.methods import list_denoisers, load_denoiser, parts_of
from invdenoise.models import classical
from invdenoise.models.base import Denoiser
from invdenoise.provenance import VERSION

TIFF = (".tif", ".tiff")


# --- Methods


def noise_of(name: str) -> str:
    """The noise that a method is for, in words."""
    if name in classical.METHODS:
        return "white noise of the level --sigma"
    if name in papers.authors():
        options = papers.authors()[name].options
        if "sigma" not in options:
            return "white noise of the level --sigma"
        return "blind, white noise" if options["sigma"] is None else f"white noise of level {options['sigma']:g}"
    network = papers.network(name)
    if not network.knows_sigma:
        return "blind, noise of real cameras"
    if network.sigma is None:
        lowest, highest = network.sigmas
        return f"blind, white noise of levels {lowest:g} to {highest:g}"
    return f"white noise of level {network.sigma:g}"


def trained_on(name: str) -> str:
    """The sets that a network was trained on here, joined by "+"; empty for other methods."""
    if name not in papers.networks():
        return ""
    options = papers.network(name).source_options("laptop")
    return "+".join([options["set"], *options.get("also", ())])


def colour_of(name: str) -> str:
    """Which pictures a network trained here knows, in a word, by the set that it was trained on; empty for other methods."""
    known = {one: describe(one).channels for one in dataset_ids()}
    return {1: "gray", 3: "colour"}.get(known.get(trained_on(name).partition("+")[0]), "")


def blind_methods() -> list[str]:
    """Names of the methods trained here whose weights can be had and that need no noise level, in the order of the papers."""
    return [name for name in list_denoisers() if name in papers.networks() and papers.network(name).sigma is None]


def default_method() -> str | None:
    """The first blind method for white noise, which is the commonest; None without weights of one."""
    return next((name for name in blind_methods() if papers.network(name).knows_sigma), None)


def table_of(names: Sequence[str]) -> str:
    """A line for each method: its name, which pictures it knows, its noise, who estimates that, and what it was trained on."""
    default, width = default_method(), max(map(len, names), default=0)
    lines = []
    for name in names:
        pictures = f"; trained on {trained_on(name)}" if trained_on(name) else ""
        pictures += "; its authors' weights" if name in papers.authors() else ""
        pictures += "".join(f", with {part}" for part in parts_of(name)[1:])
        default_one = " (default)" if name == default else ""
        lines.append(f"  {name:<{width}}  {colour_of(name):<6}  {noise_of(name)}{pictures}{default_one}")
    return "\n".join(lines)


# --- Pictures


def pictures_of(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files that places name, those of a folder in the order of their names, and an error for each place without any."""
    files, errors = [], []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        inside = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
        if not inside:
            errors.append(f"no pictures in {place}; expected files that end in {', '.join(SUFFIXES)}")
        files += inside
    return files, errors


def target_of(file: Path, folder: Path) -> Path:
    """Where the result goes: formats that keep depth and opacity, and lose nothing."""
    return folder / f"{file.stem}{'.tif' if file.suffix.lower() in TIFF else '.png'}"


def parts_for(method: Denoiser, picture: Tensor) -> list[Tensor]:
    """A picture `(1, C, H, W)` as what the method takes: as it is, channel by channel, or gray as three equal channels."""
    if method.channels in (None, picture.shape[1]):
        return [picture]
    return list(picture.split(1, dim=1)) if method.channels == 1 else [picture.expand(1, method.channels, -1, -1)]


def denoise_file(file: Path, target: Path, method: Denoiser, sigma: float | None, several: bool) -> list[str]:
    """Denoise a picture and write it; returns what was assumed about the file or left out.

    Args:
        several: this is one file of several, which have a progress bar of their own.

    Raises:
        OSError: the file cannot be read, or the result not written; FileExistsError where it is there already.
        ValueError: no picture that can be read, or one that the method cannot take.
    """
    picture, notes = read_stored(picture_file(file))
    if target.exists():
        raise FileExistsError(
            f"{file}: {target} is there already and is kept; move it, or name another folder with --out"
        )
    check_writable(target)
    pixels = picture.pixels()
    whole = (
        torch.from_numpy(pixels)[None, None] if pixels.ndim == 2 else torch.from_numpy(pixels).permute(2, 0, 1)[None]
    )
    parts = parts_for(method, whole.contiguous())
    shown = tqdm(parts, file.name, unit="channel", disable=None if len(parts) > 1 and not several else True)
    after = torch.cat([method.denoise(part, sigma) for part in shown], dim=1)
    if after.shape[1] != whole.shape[1]:
        after = after.mean(1, keepdim=True)
    result = after[0, 0] if pixels.ndim == 2 else after[0].permute(1, 2, 0)
    write_stored(target, picture.with_pixels(np.ascontiguousarray(result.numpy())))
    return notes


def denoise(options: argparse.Namespace) -> int:
    """`invdenoise denoise`; 1 when a picture could not be denoised, else 0."""
    if options.list:
        print(table_of(list_denoisers()))
        return 0
    name = options.method or default_method()
    if name is None:
        raise ValueError("no weights of a blind method are here; choose a method with --method (--list names them)")
    if not options.pictures:
        raise ValueError("no picture is named; give files or folders: invdenoise denoise photo.jpg")
    method = load_denoiser(name)
    if options.sigma is None and method.needs_sigma:
        raise ValueError(f"{name} must be told the noise level; give --sigma, in grey levels from 0 to 255")
    sigma = check_sigma(options.sigma, method.needs_sigma, "--sigma")
    if sigma is not None and _ignores_level(method, name):
        print(f"note: {name} takes no noise level; --sigma {sigma:g} changes nothing", file=sys.stderr)
    files, empty = pictures_of(options.pictures)
    for error in empty:
        print(f"error: {error}", file=sys.stderr)
    failed = 0
    with tqdm(total=len(files), unit="picture", disable=None if len(files) > 1 else True) as bar:
        for file in files:
            started, target = time.perf_counter(), target_of(file, options.out)
            try:
                notes = denoise_file(file, target, method, sigma, several=len(files) > 1)
            except (OSError, ValueError, MemoryError) as error:
                failed += 1
                reason = str(error) or "too large for the memory"
                bar.write(f"error: {reason if str(file) in reason else f'{file}: {reason}'}", file=sys.stderr)
            else:
                for note in notes:
                    bar.write(f"note: {file}: {note}", file=sys.stderr)
                bar.write(f"{file} -> {target} ({time.perf_counter() - started:.1f} s)", file=sys.stdout)
            bar.update()
    if failed and len(files) > 1:
        print(f"{failed} of {len(files)} pictures failed; the others are in {options.out}", file=sys.stderr)
    return int(bool(failed or empty))


def _ignores_level(method: Denoiser, name: str) -> bool:
    """Whether a network does the same whatever level it is told."""
    return not method.adapts or (name in papers.networks() and not papers.network(name).knows_sigma)


# --- The command line


class _Parser(argparse.ArgumentParser):
    """Looks the methods up only where the help is shown."""

    def format_help(self) -> str:
        self.epilog = f"methods that need no noise level:\n{table_of(blind_methods())}\n\n--list shows all methods."
        return super().format_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `invdenoise`; 0 when all went well, 1 after an error, 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="invdenoise", description="Invertible networks for image denoising.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    one = commands.add_parser(
        "denoise",
        help="denoise pictures of your own",
        description="Denoise pictures, gray or colour, of 8 or 16 bits a channel. TIFF files become TIFF files, all\n"
        "others PNG files. Depth, opacity and colour profile are kept. Nothing is overwritten.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument(
        "pictures", nargs="*", type=Path, metavar="FILE|FOLDER", help="of a folder, the pictures directly in it"
    )
    one.add_argument(
        "--method",
        metavar="NAME",
        help="a method for gray pictures takes colour channel by channel; default: see below",
    )
    one.add_argument(
        "--sigma", type=float, metavar="S", help="noise level (standard deviation) in grey levels, 0 to 255"
    )
    one.add_argument("--out", type=Path, default=Path("denoised"), metavar="FOLDER", help="default: denoised")
    one.add_argument("--list", action="store_true", help="list all methods that can be used here, and stop")
    one.set_defaults(run=denoise)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("stopped; the pictures named above are finished", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

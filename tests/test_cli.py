"""The command for pictures: what goes in comes out at its depth, upright and named; what cannot be done is said, and the rest goes on."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from test_decode import write_png

from invdenoise import cli, papers, paths
from invdenoise.data.decode import read_stored
from invdenoise.data.noise import awgn
from invdenoise.data.pictures import load_pictures, write_stored
from invdenoise.methods import load_denoiser
from invdenoise.tasks.metrics import psnr

SIGMA = 25.0
DEPTHS = {"gray 8": (np.uint8, 1), "gray 16": (np.uint16, 1), "colour 8": (np.uint8, 3), "colour 16": (np.uint16, 3)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, empty; results of the command are in `denoised/`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """A clean colour picture and a noisy one, `(40, 56, 3)` in [0, 1]."""
    clean = load_pictures("embedded-colour", limit=1).pictures[0].tensor()[..., 40:80, 50:106]
    noisy = awgn(clean, SIGMA, torch.Generator().manual_seed(0)).clamp(0, 1)
    return tuple(x[0].permute(1, 2, 0).numpy() for x in (clean, noisy))


def stored(pixels: np.ndarray, kind: str) -> np.ndarray:
    """Pixels in [0, 1] as a file of this kind has them."""
    dtype, channels = DEPTHS[kind]
    values = np.rint(pixels * np.iinfo(dtype).max).astype(dtype)
    return values if channels == 3 else values[..., 1]


def save(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    elif values.dtype == np.uint16:
        write_png(path, values)
    else:
        Image.fromarray(values).save(path)


def run(*arguments: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would print a place in the code
        return cli.main(["denoise", *arguments])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", DEPTHS)
def test_depth_and_colour_are_kept_and_noise_goes(kind, suffix, scene, capsys):
    clean, noisy = (stored(pixels, kind) for pixels in scene)
    save(Path(f"a{suffix}"), noisy)
    assert run(f"a{suffix}", "--method", "nlm", "--sigma", "25") == 0
    picture, notes = read_stored(Path(f"denoised/a{suffix}"))
    assert picture.values.dtype == clean.dtype and picture.values.shape == clean.shape and notes == []
    white = np.iinfo(clean.dtype).max
    before, after = (torch.from_numpy(x / white) for x in (noisy, picture.values))
    assert psnr(torch.from_numpy(clean / white), after) > psnr(torch.from_numpy(clean / white), before) + 3
    if clean.dtype == np.uint16:
        assert len(np.unique(picture.values)) > 256  # more than 8 bits
    assert capsys.readouterr().out.startswith(f"a{suffix} -> denoised/a{suffix} (")


def test_the_numbers_are_those_of_the_method(scene):
    noisy = stored(scene[1], "colour 16")
    save(Path("a.png"), noisy)
    assert run("a.png", "--method", "nlm", "--sigma", "25") == 0
    planes = torch.from_numpy((noisy / 65535).astype(np.float32)).permute(2, 0, 1)[None]
    expected = load_denoiser("nlm").denoise(planes, 25)[0].permute(1, 2, 0).numpy()
    found = read_stored(Path("denoised/a.png"))[0].values
    assert np.abs(found - expected * 65535).max() <= 0.51


def test_a_method_for_gray_takes_colour_channel_by_channel_and_one_for_colour_takes_gray(scene):
    class Channels:
        channels = 1

    colour, gray = torch.rand(1, 3, 4, 5), torch.rand(1, 1, 4, 5)
    assert [tuple(part.shape) for part in cli.parts_for(Channels, colour)] == [(1, 1, 4, 5)] * 3
    Channels.channels = 3
    ((widened),) = cli.parts_for(Channels, gray)
    assert torch.equal(widened, gray.repeat(1, 3, 1, 1))
    (same,) = cli.parts_for(Channels, colour)
    assert same is colour


def test_the_default_is_blind_and_works_on_gray_and_colour(scene, capsys):
    name = cli.default_method()
    assert name in papers.networks() and papers.network(name).sigma is None and not load_denoiser(name).needs_sigma
    for kind in ("gray 8", "colour 8"):
        file = Path(f"{kind[:4]}.png")
        clean, noisy = (stored(pixels, kind) for pixels in scene)
        save(file, noisy)
        assert run(str(file)) == 0
        after = read_stored(Path("denoised") / file)[0].values
        truth, *others = (torch.from_numpy(x / 255) for x in (clean, noisy, after))
        assert psnr(truth, others[1]) > psnr(truth, others[0]) + 3


# --- Orientation, opacity, profile


def test_a_photograph_on_its_side_comes_out_upright(scene):
    values = stored(scene[0], "colour 8")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    Image.fromarray(values).save("side.jpg", exif=exif, quality=95)
    assert run("side.jpg", "--method", "nlm", "--sigma", "2") == 0
    with Image.open("denoised/side.png") as turned:
        assert turned.size == values.shape[:2] and turned.getexif().get(0x0112, 1) == 1
        off = [np.abs(np.asarray(turned) - np.rot90(values, turns).astype(float)).mean() for turns in (-1, 1)]
    assert off[0] < 5 < off[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bits_are_turned_as_8_bits_are(orientation, scene):
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = stored(scene[1], "colour 8")
    Image.fromarray(eight).save("eight.png", exif=exif)
    write_png(Path("deep.png"), eight.astype(np.uint16) * 257, (b"eXIf", exif.tobytes()[6:]))
    deep, plain = (read_stored(Path(name))[0].values for name in ("deep.png", "eight.png"))
    assert np.array_equal(deep, plain.astype(np.uint16) * 257)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", DEPTHS)
def test_opacity_is_kept(kind, suffix, scene):
    values = stored(scene[1], kind)
    white = np.iinfo(values.dtype).max
    alpha = (np.arange(values.shape[1]) * (white // values.shape[1])).astype(values.dtype)
    both = np.dstack([values, np.broadcast_to(alpha, values.shape[:2])])
    if suffix == ".tif":
        options = {"photometric": "rgb" if values.ndim == 3 else "minisblack", "extrasamples": ["unassalpha"]}
        tifffile.imwrite("a.tif", both, planarconfig="contig", **options)
    else:
        save(Path("a.png"), both)
    if (kind, suffix) == ("gray 16", ".tif"):  # Pillow cannot read these
        assert run("a.tif", "--method", "nlm", "--sigma", "5") == 1
        return
    assert run(f"a{suffix}", "--method", "nlm", "--sigma", "5") == 0
    picture, notes = read_stored(Path(f"denoised/a{suffix}"))
    assert np.array_equal(picture.alpha, both[..., -1]) and notes == []
    assert np.abs(picture.values / white - values / white).mean() < 0.1


@pytest.mark.parametrize("kind", ["colour 8", "colour 16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_colour_profile_stays_with_its_numbers(kind, suffix, scene):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # any; it is not applied
    save(Path("plain.png"), stored(scene[1], kind))
    picture, _ = read_stored(Path("plain.png"))
    write_stored(Path(f"given{suffix}"), replace(picture, profile=profile))
    assert run(f"given{suffix}", "--method", "nlm", "--sigma", "5") == 0
    with Image.open(f"denoised/given{suffix}") as image:
        assert image.info["icc_profile"] == profile


def test_bits_in_use_are_kept(scene, capsys):
    """Of 12 bits in 16 white is 4095, so the noise level counts from there; the numbers stay in that range."""
    clean, noisy = (np.rint(pixels[..., 1] * 4095).astype(np.uint16) for pixels in scene)
    write_png(Path("a.png"), noisy)
    assert run("a.png", "--method", "nlm", "--sigma", "25") == 0
    after = read_stored(Path("denoised/a.png"))[0]
    assert after.white == 4095 and psnr(torch.from_numpy(clean / 4095), torch.from_numpy(after.values / 4095)) > 24
    said = capsys.readouterr().err
    assert "note: a.png: its brightest value" in said and "bits=16" not in said


# --- Errors


def test_bad_files_are_named_and_the_rest_goes_on(scene, capsys):
    Path("in").mkdir()
    save(Path("in/good.png"), stored(scene[1], "gray 8"))
    Path("in/broken.png").write_bytes(Path("in/good.png").read_bytes()[:60])
    Path("in/notes.txt").write_text("no picture")
    Path("in/.hidden.png").write_text("left out")
    save(Path("last.png"), stored(scene[1], "gray 8"))
    Path("empty").mkdir()
    assert run("in", "gone.jpg", "empty", "last.png", "--method", "nlm", "--sigma", "25") == 1
    said = capsys.readouterr()
    assert sorted(os.listdir("denoised")) == ["good.png", "last.png"]
    assert [line.split(" -> ")[0] for line in said.out.splitlines()] == ["in/good.png", "last.png"]
    first, *lines = said.err.splitlines()
    assert first.startswith("error: no pictures in empty; expected files that end in .png")
    assert lines[0].startswith("error: in/broken.png ") and lines[1].startswith("error: no picture gone.jpg; check")
    assert lines[2:] == ["2 of 4 pictures failed; the others are in denoised"]


def test_nothing_is_overwritten(scene, capsys):
    save(Path("a.png"), stored(scene[1], "gray 8"))
    before = Path("a.png").read_bytes()
    assert run("a.png", "--method", "nlm", "--sigma", "25", "--out", ".") == 1  # would be the picture itself
    assert Path("a.png").read_bytes() == before
    assert capsys.readouterr().err == (
        "error: a.png: a.png is there already and is kept; move it, or name another folder with --out\n"
    )
    Image.open("a.png").save("a.jpg")
    assert run("a.png", "a.jpg", "--method", "nlm", "--sigma", "25") == 1  # both would be denoised/a.png
    assert "error: a.jpg: denoised/a.png is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--method", "no-such"], "error: no denoiser 'no-such'; did you mean"),
        (["a.png", "--method", "nlm"], "error: nlm must be told the noise level; give --sigma, in grey levels from 0 to 255"),
        (["a.png", "--method", "nlm", "--sigma", "300"], "error: --sigma: sigma is 300; expected a noise level in grey levels, 0 to 255"),
        ([], "error: no picture is named; give files or folders: invdenoise denoise photo.jpg"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line_before_anything_is_written(arguments, message, scene, folder, capsys):
    save(Path("a.png"), stored(scene[1], "gray 8"))
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert said.err.startswith(message) and said.err.count("\n") == 1 and said.out == ""
    assert os.listdir(folder) == ["a.png"]


def test_pixels_that_would_lose_bits_are_refused(scene, capsys):
    tifffile.imwrite(
        "a.tif",
        scene[1][..., 0].astype(np.float32),
        photometric="minisblack",
        extratags=[(340, 11, 1, 0.0, True), (341, 11, 1, 1.0, True)],
    )
    assert run("a.tif", "--method", "nlm", "--sigma", "25") == 1
    assert "error: a.tif has more than 16 bits" in capsys.readouterr().err


def test_a_level_that_changes_nothing_is_said(scene, capsys):
    name = next(name for name in cli.blind_methods() if not load_denoiser(name).adapts)
    save(Path("a.png"), stored(scene[1], "gray 8"))
    assert run("a.png", "--method", name, "--sigma", "25") == 0
    assert f"note: {name} takes no noise level; --sigma 25 changes nothing" in capsys.readouterr().err


# --- Progress, help


def test_the_bar_is_on_a_terminal_only_and_for_several_pictures_only(scene, monkeypatch, capsys):
    for name in ("a", "b"):
        save(Path(f"{name}.png"), stored(scene[1], "gray 8"))
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert run("a.png", "b.png", "--method", "nlm", "--sigma", "25") == 0
    assert "2/2" in terminal.getvalue()
    terminal.truncate(0)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        assert run("a.png", "--method", "nlm", "--sigma", "25", "--out", "one") == 0
    assert terminal.getvalue() == ""
    assert run("a.png", "b.png", "--method", "nlm", "--sigma", "25", "--out", "two") == 0
    assert capsys.readouterr().err == ""


def test_help_and_list_name_the_methods_and_the_default(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    default = cli.default_method()
    (line,) = [line for line in text.splitlines() if line.endswith("(default)")]
    assert line.split()[0] == default and "white noise of levels" in line
    assert all(f"  {name} " in text for name in cli.blind_methods())
    assert run("--list") == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in ("nlm", *cli.blind_methods()))


def test_the_list_tells_whose_weights_a_method_has_and_who_estimates_its_noise():
    nlm, ours, theirs, mended = cli.table_of(
        ["nlm", "winnet-blind", "winnet-authors-s25", "winnet-authors-nenet"]
    ).splitlines()
    assert nlm.endswith("white noise of the level --sigma") and ", with nenet" in ours and "authors" not in ours
    assert theirs.endswith("; its authors' weights") and mended.endswith("; its authors' weights, with nenet")


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "invdenoise", "--version"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count(".") == 2

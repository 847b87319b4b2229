"""The notebooks that a reader opens first: the tour in any thread and with the reader's own picture, paths, stored form."""

from __future__ import annotations

import json
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from invdenoise import paths
from invdenoise.data import pictures

TOUR = paths.NOTEBOOKS / "00_tour.ipynb"
BLIND_TOUR = paths.NOTEBOOKS / "winnet" / "tour.ipynb"
STORED = [TOUR, BLIND_TOUR, paths.NOTEBOOKS / "evaluate.ipynb", paths.NOTEBOOKS / "train.ipynb"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Figures are drawn without a screen and forgotten, and results go to a folder of the test."""
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    matplotlib.use("agg")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        yield
    matplotlib.pyplot.close("all")


def sources(notebook: Path) -> dict[str, str]:
    """The code of a notebook's cells, by their ids."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}


def run(notebook: Path, cells: list[str] | None = None, **parameters) -> dict:
    """What a notebook's names stand for after some of its cells were run; None runs all."""
    code, names = sources(notebook), {}
    for cell in code if cells is None else cells:
        exec(compile(code[cell], f"{notebook.name}, {cell}", "exec"), names)
        if cell == "parameters":
            assert parameters.keys() <= names.keys()
            names.update(parameters)
    return names


OWN = ["parameters", "cell-04", "cell-06", "cell-39", "cell-41", "cell-42"]  # the last section


def own(path, **parameters) -> dict:
    return run(TOUR, OWN, picture_path=str(path), **parameters)


def photograph(height=24, width=30, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    return np.asarray(coarse if channels == 3 else coarse.convert("L"))


def written(tmp_path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (tmp_path / "results" / "tour").iterdir()}


# -- the tour ---------------------------------------------------------------------------------------------------------


def test_the_tour_and_its_slider_run_in_another_thread(monkeypatch):
    """Every thread has its own setting of gradients, and starts with gradients on."""
    load = pictures.load_pictures

    def crops(name):
        found = load(name)
        small = [pictures.Picture(picture.name, picture.pixels[:140, :140]) for picture in found.pictures[:2]]
        return pictures.PictureSet(found.name, found.name, tuple(small), found.sha256)

    monkeypatch.setattr(pictures, "load_pictures", crops)
    caught, drawn = [], []

    def tour():
        try:
            assert torch.is_grad_enabled()
            names = run(TOUR)
            names["show_pictures"] = lambda shown, titles, **_: drawn.append((shown, titles))
            names["play"](15, 0.5)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=tour)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]
    ((noisier, result), titles) = drawn[0]
    assert noisier.shape == result.shape == (72, 72) and titles[1].startswith("denoised ")
    assert result.std() < noisier.std()


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [
        (photograph(5, 7), 3),
        (photograph(5, 7, 1), 1),
        (photograph(1, 1, 1), 1),
        (photograph(2, 40), 3),
        (photograph(channels=1).astype(np.uint16) * 257, 1),
        (np.random.default_rng(0).random((20, 24)) < 0.5, 1),  # a halftone is noise to the network
        (np.full((16, 16), 211, np.uint8), 1),
    ],
    ids=["tiny-colour", "tiny-gray", "pixel", "narrow", "16-bit", "halftone", "flat"],
)
def test_any_picture_of_the_readers_own_comes_to_the_end(pixels, channels, tmp_path, capsys):
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    names = own(tmp_path / "mine.png", sigma=25)
    height, width = pixels.shape[:2]
    assert names["after"].shape == (1, channels, height, width)
    for file in names["files"]:
        with Image.open(file) as image:
            assert image.size == (width, height) and image.mode == ("RGB" if channels == 3 else "L")
    said = capsys.readouterr().out
    assert "size and channels are those of the picture: True" in said
    gained = ((names["after"] - names["original"]) ** 2).mean() < ((names["before"] - names["original"]) ** 2).mean()
    assert ("nothing was gained on this picture" in said) is not gained.item()


def test_a_picture_that_is_noisy_as_it_is_gets_no_noise(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "mine.png")
    names = own(tmp_path / "mine.png", add_noise=False, sigma=10)
    assert torch.equal(names["before"], names["original"]) and len(names["files"]) == 1


def test_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(photograph()).save(tmp_path / "mine.png")
    assert own("~/mine.png")["own"].name == "mine"


@pytest.mark.parametrize(
    "make",
    [lambda path: None, Path.mkdir, Path.touch, lambda path: path.write_bytes(b"text")],
    ids=["missing", "folder", "empty", "text"],
)
def test_what_is_no_picture_stops_with_its_name(make, tmp_path):
    make(tmp_path / "mine.png")
    with pytest.raises((ValueError, OSError), match="mine.png"):
        own(tmp_path / "mine.png")


def test_no_result_replaces_another(tmp_path):
    """Neither that of a picture of the same name, nor that of the same picture with other settings."""
    for number, folder in enumerate(("card1", "card2")):
        (tmp_path / folder).mkdir()
        Image.fromarray(photograph(seed=number)).save(tmp_path / folder / "IMG_0001.png")
    kept: dict[str, bytes] = {}
    for folder, settings in (
        ("card1", {}), ("card2", {}), ("card1", {"sigma": 40}), ("card1", {"add_noise": False}), ("card1", {"method": "dninn-st-s15"}),
    ):  # fmt: skip
        own(tmp_path / folder / "IMG_0001.png", **settings)
        now = written(tmp_path)
        assert len(now) == len(kept) + (1 if settings == {"add_noise": False} else 2)
        assert all(now[name] == content for name, content in kept.items())
        kept = now
    own(tmp_path / "card1" / "IMG_0001.png")
    assert written(tmp_path) == kept


def test_a_long_name_is_shortened(tmp_path):
    name = "é" * 100
    Image.fromarray(photograph()).save(tmp_path / f"{name}.png")
    assert all(file.name.startswith("é" * 40 + "-") for file in own(tmp_path / f"{name}.png")["files"])


def test_a_large_picture_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    Image.fromarray(np.zeros((1001, 1000, 3), np.uint8)).save(tmp_path / "mine.png")
    names = run(TOUR, ["parameters", "cell-04", "cell-06"], picture_path=str(tmp_path / "mine.png"), add_noise=False)
    monkeypatch.setattr(names["network"], "denoise", lambda plane, sigma: plane)
    capsys.readouterr()
    exec(sources(TOUR)["cell-39"], names)
    assert "3/3" in capsys.readouterr().err


# -- the tour of the blind network --------------------------------------------------------------------------------------

START = ["parameters", "imports", "network"]


@torch.enable_grad()  # the notebook turns gradients off; they come back after the test
def test_the_blind_tour_needs_no_noise_level(tmp_path):
    Image.fromarray(photograph(40, 50)).save(tmp_path / "mine.png")
    names = run(BLIND_TOUR, START, picture_path=str(tmp_path / "mine.png"), add_noise=False)
    drawn, names["saved"] = [], []
    exec(sources(BLIND_TOUR)["own-picture"], names)
    assert [file.name for file in names["saved"]] == list(written(tmp_path)) and len(names["saved"]) == 1
    with Image.open(names["saved"][0]) as image:
        assert image.size == (50, 40) and image.mode == "RGB"

    exec(sources(BLIND_TOUR)["slider"], names)
    names["show_pictures"] = lambda shown, titles, **_: drawn.append(titles)
    names["play"](40, 10)
    gained = [float(title.split(", ")[1].removesuffix(" dB")) for title in drawn[0]]
    assert gained[0] < gained[1] < gained[2] - 5  # noisy, told too little, blind


@torch.enable_grad()
@pytest.mark.parametrize(
    ("parameters", "says"),
    [({"method": "winnet-s25"}, "blind WINNet"), ({"method": "dninn-st-s25"}, "blind WINNet"), ({"sigma": 0}, "sigma is 0")],
)  # fmt: skip
def test_the_blind_tour_says_what_it_needs(parameters, says):
    with pytest.raises(ValueError, match=says):
        run(BLIND_TOUR, START, **parameters)


# -- where notebooks write --------------------------------------------------------------------------------------------


def score_file(**parameters) -> Path:
    cells = ["parameters", "cell-03", "cell-06"]
    return run(paths.NOTEBOOKS / "evaluate.ipynb", cells, method="wavelet-bayes", **parameters)["path"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"output": "../../x.csv"}, {"output": "own/../../../x.csv"}, {"output": "/x.csv"}, {"output": ".hidden.csv"}, {"output": "own/.x/y.csv"},
        {"output": "own/x.txt"}, {"output": "own/x"}, {"variant": "../../x"},
    ],
    ids=str,
)  # fmt: skip
def test_scores_stay_in_their_folder(parameters):
    with pytest.raises(ValueError, match="the score file would be .*; expected plain names, such as own/first.csv"):
        score_file(**parameters)


@pytest.mark.parametrize(
    ("parameters", "file"),
    [
        ({}, "own/wavelet-bayes.embedded.csv"),
        ({"variant": "blind"}, "own/wavelet-bayes.embedded.blind.csv"),
        ({"output": "paper/table1/bm3d.bsd68.sigma=25.csv"}, "paper/table1/bm3d.bsd68.sigma=25.csv"),
    ],
)
def test_plain_names_are_taken_as_they_are(parameters, file, tmp_path):
    assert score_file(**parameters) == tmp_path / "results" / "scores" / file


@pytest.mark.parametrize("name", ["../../x", "/x", "dninn-st-s25/../../x"])
def test_a_network_that_is_not_declared_is_not_trained(name, tmp_path):
    with pytest.raises(ValueError, match="x"):
        run(paths.NOTEBOOKS / "train.ipynb", ["parameters", "cell-03", "cell-06"], name=name)
    assert not (tmp_path / "results").exists()


# -- stored form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_opening_and_saving_in_jupyterlab_changes_nothing(notebook):
    """JupyterLab writes what the kernel says of itself, and the server writes keys in order, indented by one."""
    from ipykernel.ipkernel import IPythonKernel

    text = notebook.read_text(encoding="utf-8")
    stored = json.loads(text)
    assert text == json.dumps(stored, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert stored["metadata"]["kernelspec"] == {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # fmt: skip
    # The last digit of the version is that of the machine that stored it.
    language = IPythonKernel.language_info | {"version": stored["metadata"]["language_info"]["version"]}
    assert stored["metadata"]["language_info"] == language
    assert language["version"].startswith("3.11.")
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}

"""Datasets: only the registered bytes are ever used, and what is missing or broken is said in one message."""

from __future__ import annotations

import csv
import hashlib
import re
import socket
import struct
import threading
import time
import warnings
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
import yaml
from PIL import Image

from invdenoise import datasets, paths
from invdenoise.datasets import CorruptFile, DataUnavailable

HTML = b"<html><body>404: not found</body></html>"


def free_port() -> int:
    """A local port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tiny:
    """Small datasets in a folder: "tiny" (gray), "bsd400" (gray, the training set), "shots" (colour and a licence)."""

    def __init__(self, folder: Path):
        self.folder, self.mirror, self.cache = folder, folder / "mirror", folder / "cache"
        self.address = f"http://127.0.0.1:{free_port()}"
        rng = np.random.default_rng(0)
        self.gray = {f"{name}.png": rng.integers(0, 256, (9, 7), np.uint8) for name in ("a one", "b", "c")}
        for dataset in ("tiny", "bsd400"):
            for name, pixels in self.gray.items():
                self._save(dataset, name, pixels)
        self._save("shots", "colour.png", rng.integers(0, 256, (5, 6, 3), np.uint8))
        self._save("shots", "gray.png", rng.integers(0, 256, (5, 6), np.uint8))
        (self.mirror / "shots" / "License.txt").write_text("keep this notice")
        self.write_sources()

    def _save(self, dataset: str, name: str, pixels: np.ndarray) -> None:
        (self.mirror / dataset).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.mirror / dataset / name)

    def write_sources(self, conversion: str = "") -> None:
        """Register the files of the mirror; their public address is `self.address`/public/<file>."""
        (self.folder / "registry").mkdir(exist_ok=True)
        sources = {}
        for dataset, channels in {"tiny": 1, "bsd400": 1, "shots": 3}.items():
            files = sorted((self.mirror / dataset).iterdir())
            sources[dataset] = {
                "title": dataset,
                "about": "",
                "files": f"registry/{dataset}.csv",
                "num_files": len(files),
                "channels": channels,
                "addresses": {"me/it": self.address + "/public/{path}"},
                "terms": "",
                "terms_short": "free",
                "upstream": [],
                "cite": [],
            }
            with open(self.folder / "registry" / f"{dataset}.csv", "w", newline="") as out:
                writer = csv.writer(out)
                writer.writerow(["file", "bytes", "sha256", "source_repo", "source_path", "conversion"])
                for path in files:
                    name, content = f"{dataset}/{path.name}", path.read_bytes()
                    digest = hashlib.sha256(content).hexdigest()
                    writer.writerow([name, len(content), digest, "me/it", name, conversion])
        (self.folder / "sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))
        datasets._sources.cache_clear()
        datasets._registry.cache_clear()


class Server:
    """Serves a folder on a local port and remembers what it was asked."""

    def __init__(self, folder: Path):
        self.asked: list[str] = []
        self.status = 200  # another one answers every request with it
        self.announce = 0  # bytes promised beyond those sent
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                if server.status != 200:
                    return self.send_error(server.status)
                if server.announce:
                    self.send_response(200)
                    self.send_header("Content-Length", str(10 + server.announce))
                    self.end_headers()
                    return self.wfile.write(b"0123456789")
                super().do_GET()

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Tiny:
    tiny = Tiny(tmp_path)
    monkeypatch.setattr(paths, "SOURCES", tmp_path / "sources.yaml")
    monkeypatch.setenv("INVDENOISE_CACHE", str(tiny.cache))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    datasets._hosts.clear()
    yield tiny
    datasets._hosts.clear()


@pytest.fixture
def server(tiny):
    """Serves the files of `tiny` as their public address."""
    (tiny.folder / "site").mkdir()
    (tiny.folder / "site" / "public").symlink_to(tiny.mirror)
    server = Server(tiny.folder / "site")
    tiny.address = server.address
    tiny.write_sources()
    yield server
    server.close()


def cached_files(tiny: Tiny) -> list[str]:
    return sorted(str(path.relative_to(tiny.cache)) for path in tiny.cache.rglob("*") if path.is_file())


# --- The registry of the project


def test_registry_is_complete_and_pinned():
    assert len(datasets.dataset_ids()) == len(list(paths.REGISTRY.glob("*.csv")))
    everything: set[str] = set()
    for dataset in datasets.dataset_ids():
        source = datasets.describe(dataset)
        files = datasets._files(source)
        assert len(files) == source.num_files, dataset
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.bytes > 0 for file in files), dataset
        assert {file.source_repo for file in files} == set(source.addresses), dataset
        for repo, address in source.addresses.items():
            assert re.fullmatch(rf"https://[^/]+/{re.escape(repo)}/[0-9a-f]{{40}}/\{{path\}}", address), address
        assert source.terms and source.terms_short and source.upstream and source.cite, dataset
        names = {file.file for file in files}
        assert len(names) == len(files) and not names & everything, dataset
        everything |= names


def test_public_addresses_are_percent_encoded_and_skip_converted_files(monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)

    def places(dataset: str, name: str) -> list:
        source = datasets.describe(dataset)
        return datasets._places(next(file for file in datasets._files(source) if file.file == name), source)

    (address,) = places("fdn_birds", "fdn_birds/train/ABBOTTS_BOOBY_1.jpg")
    assert address.endswith("/valid/ABBOTTS%20BOOBY/1.jpg")
    (address,) = places("weights", "weights/dncnn/sigma=25.mat")
    assert address.endswith("/model/specifics/sigma%3D25.mat")
    assert places("kernels", "kernels/levin09.npz") == []


@pytest.mark.parametrize("use", [datasets.describe, datasets.fetch, datasets.load_pictures])
def test_unknown_dataset_names_the_nearest(use):
    with pytest.raises(ValueError, match="no dataset 'bsd86'; did you mean bsd68"):
        use("bsd86")


# --- Where files come from


def test_folder_mirror_fills_the_cache(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    first = datasets.load_pictures("tiny")
    assert (first.name, first.requested, first.is_stand_in, len(first)) == ("tiny", "tiny", False, 3)
    assert [picture.name for picture in first] == ["a one", "b", "c"]
    for picture, pixels in zip(first, tiny.gray.values(), strict=True):
        assert picture.pixels.dtype == np.uint8 and np.array_equal(picture.pixels, pixels)
    hashes = [hashlib.sha256((tiny.mirror / "tiny" / name).read_bytes()).hexdigest() for name in tiny.gray]
    assert first.sha256 == hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    monkeypatch.delenv("DATA_MIRROR")  # now the cache alone must do
    assert datasets.load_pictures("tiny", stand_in=False).sha256 == first.sha256
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/b.png", "tiny/c.png"]  # and nothing temporary


def test_limit_fetches_only_the_first(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    two = datasets.load_pictures("tiny", limit=2)
    assert [picture.name for picture in two] == ["a one", "b"]
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/b.png"]
    assert two.sha256 != datasets.load_pictures("tiny").sha256
    with pytest.raises(ValueError, match="limit is 0"):
        datasets.load_pictures("tiny", limit=0)


def test_relative_mirror_is_seen_from_the_current_folder_then_from_the_checkout(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    monkeypatch.chdir(tiny.folder)
    assert len(datasets.fetch("tiny")) == 3
    elsewhere = tiny.folder / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(paths, "ROOT", tiny.folder)
    assert len(datasets.fetch("bsd400")) == 3


def test_mirror_comes_before_the_public_address_and_the_address_fills_its_gaps(tiny, server, monkeypatch):
    partial_mirror = tiny.folder / "partial"
    (partial_mirror / "tiny").mkdir(parents=True)
    (partial_mirror / "tiny" / "b.png").write_bytes((tiny.mirror / "tiny" / "b.png").read_bytes())
    monkeypatch.setenv("DATA_MIRROR", str(partial_mirror))
    assert len(datasets.fetch("tiny")) == 3
    assert server.asked == ["/public/tiny/a%20one.png", "/public/tiny/c.png"]


def test_http_mirror(tiny, server, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", server.address + "/public/")
    path = datasets.fetch("tiny", "tiny/a one.png")
    assert path.read_bytes() == (tiny.mirror / "tiny" / "a one.png").read_bytes()
    assert server.asked == ["/public/tiny/a%20one.png"]


def test_mirror_of_an_unknown_kind_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", "ftp://example.org/data")
    with pytest.raises(ValueError, match="DATA_MIRROR is 'ftp://example.org/data'; expected a folder"):
        datasets.fetch("tiny")


def test_fetch_of_a_wrong_file_name_suggests_one(tiny):
    with pytest.raises(ValueError, match=r"tiny has no file 'tiny/bb.png'; did you mean 'tiny/b.png'"):
        datasets.fetch("tiny", "tiny/bb.png")


def test_colour_sets_are_colour_and_leave_out_what_is_no_picture(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    shots = datasets.load_pictures("shots")
    assert [picture.name for picture in shots] == ["colour", "gray"]
    assert {picture.pixels.shape for picture in shots} == {(5, 6, 3)}
    assert len(datasets.fetch("shots")) == 3  # the licence goes with the files


def test_sets_without_pictures_say_so():
    with pytest.raises(ValueError, match=r"weights holds no pictures .* use fetch\('weights'\)"):
        datasets.load_pictures("weights")


# --- What cannot be had


def test_refused_network_fails_at_once_with_the_remedy(tiny):
    start = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        datasets.fetch("tiny")
    assert time.monotonic() - start < 2
    message = str(caught.value)
    for part in ("tiny: 3 of 3 files", tiny.address.removeprefix("http://"), "DATA_MIRROR", "`make data`"):
        assert part in message
    assert "\n" not in message
    assert not tiny.cache.exists()  # a read-only checkout is no obstacle to finding this out


def test_host_that_never_answers_is_asked_once(tiny, monkeypatch):
    questions = []
    head = requests.head
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: questions.append(args) or head(*args, **kwargs))
    monkeypatch.setattr(datasets, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:  # takes calls and says nothing
        tiny.address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tiny.write_sources()
        for dataset in ("tiny", "bsd400"):
            with pytest.raises(DataUnavailable, match="no answer"):
                datasets.fetch(dataset)
    assert len(questions) == 1  # for six files

    monkeypatch.setattr(datasets, "REMEMBER_SECONDS", 0)  # a minute later the network may be back
    with pytest.raises(DataUnavailable):
        datasets.fetch("tiny", "tiny/b.png")
    assert len(questions) == 2


def test_look_up_of_a_name_that_hangs_is_cut_short(tiny, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(4) or look_up(*args, **kwargs))
    monkeypatch.setattr(datasets, "CONNECT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"no answer within 0\.2 s"):
        datasets.fetch("tiny")
    assert time.monotonic() - start < 2


def test_missing_mirror_folder_is_named(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.folder / "nowhere"))
    with pytest.raises(DataUnavailable, match=re.escape(f"the mirror has no readable {tiny.folder / 'nowhere'}")):
        datasets.fetch("tiny")


def test_file_gone_from_the_address_does_not_stop_the_others(tiny, server):
    (tiny.mirror / "tiny" / "b.png").unlink()
    with pytest.raises(DataUnavailable, match=r"1 of 3 files .*tiny/b\.png: 404"):
        datasets.fetch("tiny")
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/c.png"]


def test_host_in_trouble_is_left_alone(tiny, server):
    server.status = 503
    with pytest.raises(DataUnavailable, match="503"):
        datasets.fetch("tiny")
    assert len(server.asked) == 1


def test_download_that_breaks_off_leaves_nothing(tiny, server):
    server.announce = 100
    with pytest.raises(DataUnavailable, match="no connection"):
        datasets.fetch("tiny")
    assert cached_files(tiny) == []


def test_converted_file_is_only_taken_from_a_mirror(tiny, server, monkeypatch):
    tiny.write_sources(conversion="cut to 9x7")
    with pytest.raises(
        DataUnavailable, match=r"no public address has tiny/a one.png, which was converted \(cut to 9x7\)"
    ):
        datasets.fetch("tiny")
    assert server.asked == []
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    assert len(datasets.fetch("tiny")) == 3


@pytest.mark.parametrize(("dataset", "name"), [("tiny", "embedded"), ("bsd400", "embedded-train")])
def test_embedded_pictures_stand_in_and_say_so(tiny, dataset, name):
    with pytest.warns(
        UserWarning, match=f"2 gray pictures of '{name}' stand in for {dataset}: .*DATA_MIRROR"
    ) as caught:
        pictures = datasets.load_pictures(dataset, limit=2)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert (pictures.name, pictures.requested, pictures.is_stand_in, len(pictures)) == (name, dataset, True, 2)
    with pytest.raises(DataUnavailable):
        datasets.load_pictures(dataset, stand_in=False)


# --- What is there and is wrong


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


damage = pytest.mark.parametrize(
    "spoil",
    [lambda good: good[:-20], altered, lambda good: HTML, lambda good: b""],
    ids=["cut", "altered", "html", "empty"],
)


@damage
def test_corrupt_cache_is_an_error_that_names_the_mending_command(tiny, monkeypatch, spoil):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    path = datasets.fetch("tiny")[1]
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with pytest.raises(CorruptFile) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")  # no stand-in either
        datasets.load_pictures("tiny")
    found, expected = (hashlib.sha256(content).hexdigest()[:12] for content in (spoil(good), good))
    for part in (str(path), found, expected, f"`rm {path} && make data`"):
        assert part in str(caught.value)
    path.unlink()
    assert len(datasets.load_pictures("tiny")) == 3


@damage
def test_corrupt_mirror_is_passed_over_or_reported(tiny, server, monkeypatch, spoil):
    bad = tiny.folder / "bad" / "tiny"
    bad.mkdir(parents=True)
    for name in tiny.gray:
        (bad / name).write_bytes(spoil((tiny.mirror / "tiny" / name).read_bytes()))
    monkeypatch.setenv("DATA_MIRROR", str(bad.parent))
    server.status = 503
    with pytest.raises(CorruptFile, match=r"bad/tiny/a one\.png is not the registered .* replace it in the mirror"):
        datasets.load_pictures("tiny")
    assert cached_files(tiny) == []

    server.status = 200  # the next place has the right bytes
    datasets._hosts.clear()
    assert not datasets.load_pictures("tiny").is_stand_in


def test_page_in_place_of_a_picture_is_corrupt(tiny, server):
    (tiny.mirror / "tiny" / "b.png").write_bytes(HTML)  # as a login page answers to every address
    with pytest.raises(CorruptFile, match=r"public/tiny/b\.png is not the registered tiny/b\.png.*check the network"):
        datasets.load_pictures("tiny")
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/c.png"]


def test_corrupt_outranks_missing(tiny):
    """Otherwise a stand-in would hide a broken cache."""
    (tiny.cache / "tiny").mkdir(parents=True)
    (tiny.cache / "tiny" / "c.png").write_bytes(HTML)
    with pytest.raises(CorruptFile, match="c.png"):
        datasets.load_pictures("tiny")


# --- python -m invdenoise.datasets


def test_command_line_reports_complete_missing_and_corrupt(tiny, monkeypatch, capsys):
    assert datasets.main([]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"3 missing: could not be reached", out)) == 6  # three sets, in progress and in the table
    assert "missing: tiny, bsd400, shots. Tried: 127.0.0.1" in out and "DATA_MIRROR" in out

    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    assert datasets.main(["tiny", "shots"]) == 0
    table = capsys.readouterr().out.partition("dataset  ")[2].splitlines()
    assert [row.split()[:3] + row.split()[-1:] for row in table[1:]] == [
        ["tiny", "3", "3", "complete"],
        ["shots", "3", "3", "complete"],
    ]

    (tiny.cache / "tiny" / "b.png").write_bytes(HTML)
    assert datasets.main(["tiny"]) == 1
    out = capsys.readouterr().out
    assert "1 corrupt" in out and f"rm {tiny.cache / 'tiny' / 'b.png'} && make data" in out

    with pytest.raises(SystemExit) as stop:
        datasets.main(["shot"])
    assert stop.value.code == 2 and "did you mean shots?" in capsys.readouterr().err


def test_command_line_tells_converted_files_apart(tiny, capsys):
    tiny.write_sources(conversion="cut")
    assert datasets.main(["tiny"]) == 0
    assert "3 missing: only a mirror has them" in capsys.readouterr().out


# --- Embedded pictures


def test_embedded_pictures_are_fixed_and_need_no_network(monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("embedded pictures must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    test, train = datasets.embedded("test"), datasets.embedded("train")
    assert (test.name, len(test), train.name, len(train)) == ("embedded", 6, "embedded-train", 12)
    assert {picture.pixels.shape for picture in test} == {(192, 192)}
    assert {picture.pixels.shape for picture in train} == {(180, 180)}
    # Scores on these pictures compare only as long as the pixels stay what they are.
    assert test.sha256 == "f37a982fe24fd7ad7b7a7506c4889d4015d2b51525050f1a6a9bc67522fc13e3"
    assert train.sha256 == "930334300c7e12cf3636b469c73bc4004b932c52b03e285563485a1dca64bcb2"
    assert datasets.load_pictures("embedded").sha256 == test.sha256
    assert datasets.load_pictures("embedded-train", limit=3).name == "embedded-train"
    assert all(picture.pixels.std() > 10 for pictures in (test, train) for picture in pictures)  # none is flat


def test_embedded_roles_share_no_picture_and_crops_no_pixel():
    (test_side, test), (train_side, train) = datasets.EMBEDDED["embedded"], datasets.EMBEDDED["embedded-train"]
    assert not {stem for stem, *_ in test} & {stem for stem, *_ in train}
    for side, crops in ((test_side, test), (train_side, train)):
        for (a, top_a, left_a), (b, top_b, left_b) in combinations(crops, 2):
            assert a != b or abs(top_a - top_b) >= side or abs(left_a - left_b) >= side
    with pytest.raises(ValueError, match="role is 'validation'; expected one of test, train"):
        datasets.embedded("validation")


def test_picture_tensor():
    gray = datasets.Picture("g", np.array([[0, 51], [102, 255]], np.uint8)).tensor()
    assert gray.dtype == torch.float32
    assert torch.equal(gray, torch.tensor([[[[0, 0.2], [0.4, 1]]]]))
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 2] = 255, 0, 51
    colour = datasets.Picture("c", pixels).tensor(torch.float64)
    assert colour.shape == (1, 3, 2, 3) and colour.dtype == torch.float64
    assert colour[0, :, 0, 2].tolist() == [1, 0, 0.2]


# --- The reader's own picture


def test_read_picture_gray_and_colour(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.stack([gray, gray + 1, gray + 2], -1)
    for name, pixels in (("my.gray.png", gray), ("colour.tif", colour), ("colour.bmp", colour)):
        Image.fromarray(pixels).save(tmp_path / name)
        picture = datasets.read_picture(str(tmp_path / name))
        assert picture.name == name.rpartition(".")[0]
        assert picture.pixels.dtype == np.uint8 and np.array_equal(picture.pixels, pixels)


def write_png16(path: Path, pixels: np.ndarray) -> None:
    """A colour PNG of 16 bits, which Pillow can read and not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def test_read_picture_keeps_the_upper_half_of_16_bits(tmp_path):
    deep = (np.arange(12).reshape(3, 4) * 5900 + 37).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5\n4 3\n65535\n" + deep.astype(">u2").tobytes())
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        assert np.array_equal(datasets.read_picture(tmp_path / name).pixels, deep >> 8), name
    write_png16(tmp_path / "colour.png", np.stack([deep, deep // 2, deep // 3], -1))
    expected = np.stack([deep, deep // 2, deep // 3], -1) >> 8
    assert np.array_equal(datasets.read_picture(tmp_path / "colour.png").pixels, expected)


def test_read_picture_lays_transparent_parts_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3] = 200, 0, 100
    pixels[0, :, 3] = 255, 0, 51  # opaque, transparent, one fifth
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    red = datasets.read_picture(tmp_path / "rgba.png").pixels
    assert red.tolist() == [[[200, 0, 100], [255, 255, 255], [244, 204, 224]]]
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "la.png")
    assert datasets.read_picture(tmp_path / "la.png").pixels.tolist() == [[100, 255, 224]]


def test_read_picture_turns_a_photograph_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8)).save(tmp_path / "photo.png", exif=exif)
    assert datasets.read_picture(tmp_path / "photo.png").pixels.tolist() == [[3, 0], [4, 1], [5, 2]]


def test_read_picture_errors_name_the_file_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no picture .*none\.png; check the name"):
        datasets.read_picture(tmp_path / "none.png")
    with pytest.raises(ValueError, match="is a folder"):
        datasets.read_picture(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png is empty \(0 bytes\)"):
        datasets.read_picture(tmp_path / "empty.png")
    (tmp_path / "page.png").write_bytes(HTML)
    with pytest.raises(ValueError, match=r"page\.png is no picture that Pillow can read"):
        datasets.read_picture(tmp_path / "page.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for suffix in ("png", "jpg", "tif"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-1500])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} (breaks off or is damaged|is no picture)"):
            datasets.read_picture(path)
    Image.fromarray(noise.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="32-bit pixels.*save it with 8 or 16 bits"):
        datasets.read_picture(tmp_path / "float.tif")


def test_write_picture_rounds_and_comes_back(tmp_path):
    levels = torch.tensor([[0.0, 0.49 / 255, 0.51 / 255], [1.0, 1.7, -0.3]])
    path = datasets.write_picture(tmp_path / "new" / "gray.png", levels[None, None])
    assert datasets.read_picture(path).pixels.tolist() == [[0, 0, 1], [255, 255, 0]]
    colour = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    path = datasets.write_picture(tmp_path / "colour.tif", colour)
    assert torch.equal(datasets.read_picture(path).tensor(torch.float64), (colour.double() * 255).round() / 255)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["colour.tif", "new"]  # nothing temporary


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        ("a", torch.zeros(2, 2), r"a has no suffix of a picture format; name it a\.png"),
        ("a.xyz", torch.zeros(2, 2), "no suffix of a picture format"),
        ("a.png", torch.zeros(2, 1, 2, 2), r"shape \(2, 1, 2, 2\)"),
        ("a.png", torch.zeros(1, 2, 2, 2), r"shape \(1, 2, 2, 2\)"),
        ("a.png", torch.zeros(2, 2, dtype=torch.uint8), "expected floats"),
        ("a.png", torch.tensor([[0, torch.nan]]), "1 of 2 values are NaN"),
    ],
)
def test_write_picture_refuses(tmp_path, name, pixels, message):
    with pytest.raises(ValueError, match=message):
        datasets.write_picture(tmp_path / name, pixels)
    assert list(tmp_path.iterdir()) == []


# --- The data themselves, where they can be had


def real(dataset: str) -> datasets.PictureSet:
    try:
        return datasets.load_pictures(dataset, stand_in=False)
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")


def test_bsd68():
    pictures = real("bsd68")
    assert len(pictures) == 68
    assert {picture.pixels.shape for picture in pictures} == {(481, 321), (321, 481)}


def test_set12():
    pictures = real("set12")
    assert [picture.name for picture in pictures] == [f"{k:02}" for k in range(1, 13)]
    assert [picture.pixels.shape[0] for picture in pictures] == [256] * 7 + [512] * 5


def test_cc15_is_colour():
    pictures = real("cc15")
    assert len(pictures) == 30  # without License.txt
    assert {picture.pixels.shape for picture in pictures} == {(512, 512, 3)}


def test_a_single_file_of_the_weights():
    try:
        path = datasets.fetch("weights", "weights/dncnn/sigma=25.mat")
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")
    assert path.is_file() and path.name == "sigma=25.mat"

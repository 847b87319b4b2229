"""Fetching: only the registered bytes are ever used, and what is missing or broken is said in one message."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
import warnings

import numpy as np
import pytest
import requests
from tiny import HTML, Server, Tiny, tiny_datasets

from invdenoise import paths
from invdenoise.data import fetch, pictures
from invdenoise.data.fetch import CorruptFile, DataUnavailable


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    yield from tiny_datasets(tmp_path, monkeypatch)


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
    assert len(fetch.dataset_ids()) == len(list(paths.REGISTRY.glob("*.csv")))
    everything: set[str] = set()
    for dataset in fetch.dataset_ids():
        described = fetch.describe(dataset)
        files = fetch.registered_files(described)
        assert len(files) == described.num_files, dataset
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.bytes > 0 for file in files), dataset
        assert {file.source_repo for file in files} == set(described.addresses), dataset
        for repo, address in described.addresses.items():
            assert re.fullmatch(rf"https://[^/]+/{re.escape(repo)}/[0-9a-f]{{40}}/\{{path\}}", address), address
        assert described.terms and described.terms_short and described.upstream and described.cite, dataset
        names = {file.file for file in files}
        assert len(names) == len(files) and not names & everything, dataset
        everything |= names


def test_public_addresses_are_percent_encoded_and_skip_converted_files(monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)

    def places(dataset: str, name: str) -> list:
        described = fetch.describe(dataset)
        return fetch._places(next(file for file in fetch.registered_files(described) if file.file == name), described)

    (address,) = places("fdn_birds", "fdn_birds/train/ABBOTTS_BOOBY_1.jpg")
    assert address.endswith("/valid/ABBOTTS%20BOOBY/1.jpg")
    (address,) = places("weights", "weights/dncnn/sigma=25.mat")
    assert address.endswith("/model/specifics/sigma%3D25.mat")
    assert places("kernels", "kernels/levin09.npz") == []


@pytest.mark.parametrize("use", [fetch.describe, fetch.fetch, pictures.load_pictures])
def test_unknown_dataset_names_the_nearest(use):
    with pytest.raises(ValueError, match="no dataset 'bsd86'; did you mean bsd68"):
        use("bsd86")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holds": "pears"}, "holds is 'pears'; expected one of clean, pairs, noisy, files"),
        ({"role": "validation"}, "role is 'validation'; expected one of test, train"),
        ({"holds": "pairs"}, "`pairs` gives the names"),
        ({"channels": None}, "`channels` is null where `holds` is files, and only there"),
        (
            {"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_c", "scene": "desk"}},
            "scene is 'desk'; expected a regular expression with one group",
        ),
        ({"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_c", "scene": "("}}, "missing"),
        ({"holds": "pairs", "pairs": {"noisy": "_n"}}, ".*missing 1 .* argument: 'clean'"),
        ({"licence": "free"}, ".*unexpected keyword argument 'licence'"),
    ],
)
def test_an_entry_that_is_wrong_names_the_file_the_dataset_and_the_field(tiny, change, message):
    tiny.write_sources(tiny=change)
    with pytest.raises(ValueError, match=rf"sources\.yaml, dataset tiny: {message}"):
        fetch.dataset_ids()


# --- Where files come from


def test_folder_mirror_fills_the_cache(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    first = pictures.load_pictures("tiny")
    assert (first.name, first.requested, first.is_stand_in, len(first)) == ("tiny", "tiny", False, 3)
    assert [picture.name for picture in first] == ["a one", "b", "c"]
    for picture, pixels in zip(first, tiny.gray.values(), strict=True):
        assert picture.pixels.dtype == np.uint8 and np.array_equal(picture.pixels, pixels)
    hashes = [hashlib.sha256((tiny.mirror / "tiny" / name).read_bytes()).hexdigest() for name in tiny.gray]
    assert first.sha256 == hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    monkeypatch.delenv("DATA_MIRROR")  # now the cache alone must do
    assert pictures.load_pictures("tiny", stand_in=False).sha256 == first.sha256
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/b.png", "tiny/c.png"]  # and nothing temporary


def test_limit_fetches_only_the_first(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    two = pictures.load_pictures("tiny", limit=2)
    assert [picture.name for picture in two] == ["a one", "b"]
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/b.png"]
    assert two.sha256 != pictures.load_pictures("tiny").sha256
    with pytest.raises(ValueError, match="limit is 0"):
        pictures.load_pictures("tiny", limit=0)


def test_relative_mirror_is_seen_from_the_current_folder_then_from_the_checkout(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", "mirror")
    monkeypatch.chdir(tiny.folder)
    assert len(fetch.fetch("tiny")) == 3
    elsewhere = tiny.folder / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(paths, "ROOT", tiny.folder)
    assert len(fetch.fetch("lessons")) == 3


def test_mirror_comes_before_the_public_address_and_the_address_fills_its_gaps(tiny, server, monkeypatch):
    partial_mirror = tiny.folder / "partial"
    (partial_mirror / "tiny").mkdir(parents=True)
    (partial_mirror / "tiny" / "b.png").write_bytes((tiny.mirror / "tiny" / "b.png").read_bytes())
    monkeypatch.setenv("DATA_MIRROR", str(partial_mirror))
    assert len(fetch.fetch("tiny")) == 3
    assert server.asked == ["/public/tiny/a%20one.png", "/public/tiny/c.png"]


def test_http_mirror(tiny, server, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", server.address + "/public/")
    path = fetch.fetch("tiny", "tiny/a one.png")
    assert path.read_bytes() == (tiny.mirror / "tiny" / "a one.png").read_bytes()
    assert server.asked == ["/public/tiny/a%20one.png"]


def test_mirror_of_an_unknown_kind_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", "ftp://example.org/data")
    with pytest.raises(ValueError, match="DATA_MIRROR is 'ftp://example.org/data'; expected a folder"):
        fetch.fetch("tiny")


def test_fetch_of_a_wrong_file_name_suggests_one(tiny):
    with pytest.raises(ValueError, match=r"tiny has no file 'tiny/bb.png'; did you mean 'tiny/b.png'"):
        fetch.fetch("tiny", "tiny/bb.png")


# --- What cannot be had


def test_refused_network_fails_at_once_with_the_remedy(tiny):
    start = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        fetch.fetch("tiny")
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
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:  # takes calls and says nothing
        tiny.address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tiny.write_sources()
        for dataset in ("tiny", "lessons"):
            with pytest.raises(DataUnavailable, match="no answer"):
                fetch.fetch(dataset)
    assert len(questions) == 1  # for six files

    monkeypatch.setattr(fetch, "REMEMBER_SECONDS", 0)  # a minute later the network may be back
    with pytest.raises(DataUnavailable):
        fetch.fetch("tiny", "tiny/b.png")
    assert len(questions) == 2


def test_look_up_of_a_name_that_hangs_is_cut_short(tiny, monkeypatch):
    before, released = threading.enumerate(), threading.Event()

    def look_up(*_, **__):
        released.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"no answer within 0\.2 s"):
        fetch.fetch("tiny")
    assert time.monotonic() - start < 2
    released.set()
    for thread in set(threading.enumerate()) - set(before):
        thread.join(10)  # it must not reach into the next test


def test_missing_mirror_folder_is_named(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.folder / "nowhere"))
    with pytest.raises(DataUnavailable, match=re.escape(f"the mirror has no readable {tiny.folder / 'nowhere'}")):
        fetch.fetch("tiny")


def test_file_gone_from_the_address_does_not_stop_the_others(tiny, server):
    (tiny.mirror / "tiny" / "b.png").unlink()
    with pytest.raises(DataUnavailable, match=r"1 of 3 files .*tiny/b\.png: 404"):
        fetch.fetch("tiny")
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/c.png"]


def test_host_in_trouble_is_left_alone(tiny, server):
    server.status = 503
    with pytest.raises(DataUnavailable, match="503"):
        fetch.fetch("tiny")
    assert len(server.asked) == 1


def test_download_that_breaks_off_leaves_nothing(tiny, server):
    server.announce = 100
    with pytest.raises(DataUnavailable, match="no connection"):
        fetch.fetch("tiny")
    assert cached_files(tiny) == []


def test_converted_file_is_only_taken_from_a_mirror(tiny, server, monkeypatch):
    tiny.write_sources(conversion="cut to 9x7")
    with pytest.raises(
        DataUnavailable, match=r"no public address has tiny/a one.png, which was converted \(cut to 9x7\)"
    ):
        fetch.fetch("tiny")
    assert server.asked == []
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    assert len(fetch.fetch("tiny")) == 3


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
    path = fetch.fetch("tiny")[1]
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with pytest.raises(CorruptFile) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")  # no stand-in either
        pictures.load_pictures("tiny")
    found, expected = (hashlib.sha256(content).hexdigest()[:12] for content in (spoil(good), good))
    for part in (str(path), found, expected, f"`rm {path} && make data`"):
        assert part in str(caught.value)
    path.unlink()
    assert len(pictures.load_pictures("tiny")) == 3


@damage
def test_corrupt_mirror_is_passed_over_or_reported(tiny, server, monkeypatch, spoil):
    bad = tiny.folder / "bad" / "tiny"
    bad.mkdir(parents=True)
    for name in tiny.gray:
        (bad / name).write_bytes(spoil((tiny.mirror / "tiny" / name).read_bytes()))
    monkeypatch.setenv("DATA_MIRROR", str(bad.parent))
    server.status = 503
    with pytest.raises(CorruptFile, match=r"bad/tiny/a one\.png is not the registered .* replace it in the mirror"):
        pictures.load_pictures("tiny")
    assert cached_files(tiny) == []

    server.status = 200  # the next place has the right bytes
    fetch._hosts.clear()
    assert not pictures.load_pictures("tiny").is_stand_in


def test_page_in_place_of_a_picture_is_corrupt(tiny, server):
    (tiny.mirror / "tiny" / "b.png").write_bytes(HTML)  # as a login page answers to every address
    with pytest.raises(CorruptFile, match=r"public/tiny/b\.png is not the registered tiny/b\.png.*check the network"):
        pictures.load_pictures("tiny")
    assert cached_files(tiny) == ["tiny/a one.png", "tiny/c.png"]


def test_corrupt_outranks_missing(tiny):
    """Otherwise a stand-in would hide a broken cache."""
    (tiny.cache / "tiny").mkdir(parents=True)
    (tiny.cache / "tiny" / "c.png").write_bytes(HTML)
    with pytest.raises(CorruptFile, match="c.png"):
        pictures.load_pictures("tiny")


# --- python -m invdenoise.data.fetch


def test_command_line_reports_complete_missing_and_corrupt(tiny, monkeypatch, capsys):
    assert fetch.main([]) == 0
    out = capsys.readouterr().out
    assert (
        len(re.findall(r"3 missing: could not be reached", out)) == 6
    )  # three such sets, in progress and in the table
    assert "missing: tiny, lessons, shots, couples, grainy. Tried: 127.0.0.1" in out and "DATA_MIRROR" in out

    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    assert fetch.main(["tiny", "shots"]) == 0
    table = capsys.readouterr().out.partition("dataset  ")[2].splitlines()
    assert [row.split()[:3] + row.split()[-1:] for row in table[1:]] == [
        ["tiny", "3", "3", "complete"],
        ["shots", "3", "3", "complete"],
    ]

    (tiny.cache / "tiny" / "b.png").write_bytes(HTML)
    assert fetch.main(["tiny"]) == 1
    out = capsys.readouterr().out
    assert "1 corrupt" in out and f"rm {tiny.cache / 'tiny' / 'b.png'} && make data" in out

    with pytest.raises(SystemExit) as stop:
        fetch.main(["shot"])
    assert stop.value.code == 2 and "did you mean shots?" in capsys.readouterr().err


def test_command_line_tells_converted_files_apart(tiny, capsys):
    tiny.write_sources(conversion="cut")
    assert fetch.main(["tiny"]) == 0
    assert "3 missing: only a mirror has them" in capsys.readouterr().out


# --- The data themselves, where they can be had


def test_a_single_file_of_the_weights():
    try:
        path = fetch.fetch("weights", "weights/dncnn/sigma=25.mat")
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")
    assert path.is_file() and path.name == "sigma=25.mat"

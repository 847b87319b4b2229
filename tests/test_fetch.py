"""Fetching: only the registered bytes are ever used, and what is missing or broken is said in one message."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import socket
import threading
import time
import warnings

import numpy as np
import pytest
import requests
from tiny import HTML, Server, Tiny, free_port, tiny_datasets

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
    everything: dict[str, object] = {}
    for dataset in fetch.dataset_ids():
        described = fetch.describe(dataset)
        files = fetch.registered_files(described)
        assert len(files) == described.num_files, dataset
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.bytes > 0 for file in files), dataset
        assert {file.source_repo for file in files} == set(described.addresses), dataset
        for repo, address in described.addresses.items():
            assert re.fullmatch(rf"https://[^/]+/{re.escape(repo)}/[0-9a-f]{{40}}/\{{path\}}", address), address
        assert described.terms and described.terms_short and described.upstream and described.cite, dataset
        registered = {file.file: file for file in files}
        assert len(registered) == len(files), dataset
        # A set may be a part of another one; its files are then the same.
        assert all(everything.get(name, file) == file for name, file in registered.items()), dataset
        everything |= registered


def test_public_addresses_are_percent_encoded_and_skip_converted_files(monkeypatch):
    monkeypatch.delenv("DATA_MIRROR", raising=False)

    def places(dataset: str, name: str) -> list:
        described = fetch.describe(dataset)
        return fetch._places(next(file for file in fetch.registered_files(described) if file.file == name), described)

    (address,) = places("fdn-birds-train", "fdn_birds/train/ABBOTTS_BOOBY_1.jpg")
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
        (
            {"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_n"}},
            "noisy is '_n' and clean '_n'; expected two different",
        ),
        (
            {"holds": "pairs", "pairs": {"noisy": "_n", "clean": ""}},
            "noisy is '_n' and clean ''; expected two different",
        ),
        (
            {"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_c", "scene": "(d)", "scenes": {"d": ["1"]}}},
            "scene and scenes are both given",
        ),
        (
            {"holds": "pairs", "pairs": {"noisy": "_n", "clean": "_c", "scenes": {"d": ["1"], "e": ["2", "1"]}}},
            "scenes lists 1 twice",
        ),
        ({"holds": "pairs", "pairs": {"noisy": "_n"}}, ".*missing 1 .* argument: 'clean'"),
        ({"holds": "noisy", "members": "a.jpg"}, "`members` and `by_hand` are for sets whose `holds` is clean"),
        ({"members": "{9..1}.jpg"}, r"members is '\{9\.\.1\}\.jpg'; expected the lower number first"),
        ({"members": "{1..2}/{3..4}.jpg"}, "members is .* expected a name with one range of numbers"),
        (
            {"by_hand": {"folder": "f", "layout": "coco", "num_pictures": 1}},
            "layout is 'coco'; expected one of celeba, cub200, flowers102, rice",
        ),
        ({"by_hand": {"folder": "f", "layout": "rice", "num_pictures": 0}}, "num_pictures is 0; expected 1 or more"),
        ({"licence": "free"}, ".*unexpected keyword argument 'licence'"),
    ],
)
def test_an_entry_that_is_wrong_names_the_file_the_dataset_and_the_field(tiny, change, message):
    tiny.write_sources(tiny=change)
    with pytest.raises(ValueError, match=rf"sources\.yaml, dataset tiny: {message}"):
        fetch.dataset_ids()


def test_one_range_of_numbers_names_many_members():
    assert fetch.member_names("a/{08..11}.jpg") == ["a/08.jpg", "a/09.jpg", "a/10.jpg", "a/11.jpg"]
    assert fetch.member_names("{9..10}") == ["9", "10"] and fetch.member_names("one.jpg") == ["one.jpg"]
    for name, first, last in (("train", 1, 9000), ("validation", 9001, 9500), ("test", 9501, 10_000)):
        members = fetch.member_names(fetch.describe(f"celeba-half-{name}").members)
        assert members == [f"{number:06d}.jpg" for number in range(first, last + 1)]


def test_training_and_test_sets_of_one_folder_share_no_file_and_are_split_by_number():
    for name in ("fdn-faces", "fdn-flowers", "fdn-birds", "fdn-aerial", "rice1-half", "rice2-half"):
        train, test = (fetch.describe(f"{name}-{role}") for role in ("train", "test"))
        assert (train.role, test.role, train.channels, test.channels) == ("train", "test", 3, 3)
        files = [[file.file for file in fetch.registered_files(part)] for part in (train, test)]
        assert not set(files[0]) & set(files[1])
        if name.startswith("rice"):
            numbers = [[int(re.search(r"(\d+)\.png$", file)[1]) for file in part] for part in files]
            assert (
                sum(numbers, []) == sorted(sum(numbers, [])) and len(files[1]) == (len(files[0]) + len(files[1])) // 6
            )


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
    with pytest.raises(DataUnavailable, match=re.escape(f"the mirror has no {tiny.folder / 'nowhere'}")):
        fetch.fetch("tiny")


def test_tilde_is_the_home_folder(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny.folder))
    monkeypatch.setenv("DATA_MIRROR", " ~/mirror ")  # quoted in a script, so no shell expands it
    assert len(fetch.fetch("tiny")) == 3
    monkeypatch.setenv("DATA_MIRROR", "~nobody-of-this-name/mirror")
    with pytest.raises(DataUnavailable, match="the mirror has no .*~nobody-of-this-name/mirror"):
        fetch.fetch("lessons")


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
    size = f"{len(spoil(good))} bytes" if len(spoil(good)) != len(good) else found
    for part in (str(path), size, expected, f"`rm {path} && make data`"):
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


@pytest.mark.parametrize("where", ["cache", "mirror"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "endless"])
def test_what_is_no_file_of_the_registered_size_is_not_read(tiny, monkeypatch, where, kind):
    """Reading a pipe or a device never ends; copying a file of a terabyte fills the disk."""
    if where == "mirror":
        folder = tiny.folder / "other"
        monkeypatch.setenv("DATA_MIRROR", str(folder))
    else:
        folder = tiny.cache
    path = folder / "tiny" / "b.png"
    path.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with open(path, "wb") as file:
            file.truncate(2**40)  # takes no room on the disk
    found = {"folder": "a folder", "endless": f"{2**40} bytes"}.get(kind, "a pipe or device")
    remedy = (
        "replace it in the mirror" if where == "mirror" else "mend it with `rm -r " if kind == "folder" else "mend it"
    )
    start = time.monotonic()
    with pytest.raises(CorruptFile, match=rf"tiny/b\.png is not the registered tiny/b\.png: {found}, .*{remedy}"):
        fetch.fetch("tiny", "tiny/b.png")
    assert time.monotonic() - start < 2
    assert where == "cache" or cached_files(tiny) == []


# --- Hosts that answer too much or too slowly


class Host:
    """A host that answers every GET with what `answer(socket)` sends, and counts the bytes that were taken."""

    def __init__(self, answer):
        self.sent, self.asked = 0, 0
        self._answer, self._server = answer, socket.create_server(("127.0.0.1", 0), backlog=16)
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(4096)
                try:
                    if request.startswith(b"HEAD"):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    else:
                        self.asked += 1
                        self._answer(self, connection)
                except OSError:  # the other side has had enough
                    pass

    def send(self, connection: socket.socket, content: bytes) -> None:
        connection.sendall(content)
        self.sent += len(content)

    def wait(self, seconds: float) -> bool:
        """Whether the host goes on."""
        return not self._closed.wait(seconds)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)


def endless(host: Host, connection: socket.socket) -> None:
    host.send(connection, b"HTTP/1.1 200 OK\r\n\r\n")
    while host.wait(0):
        host.send(connection, bytes(65536))


def compressed(host: Host, connection: socket.socket) -> None:
    """100 MB of zeros in 100 kB."""
    content = gzip.compress(bytes(10**8))
    host.send(connection, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + content)


def dripping(host: Host, connection: socket.socket) -> None:
    host.send(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while host.wait(0.02):
        host.send(connection, b"x")


def dripping_header(host: Host, connection: socket.socket) -> None:
    host.send(connection, b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while host.wait(0.02):
        host.send(connection, b"x")


@pytest.fixture
def host_of(tiny):
    """A function: the public address is a host that answers like this."""
    hosts = []

    def start(answer) -> Host:
        hosts.append(Host(answer))
        tiny.address = hosts[-1].address
        tiny.write_sources()
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


@pytest.mark.parametrize("answer", [endless, compressed])
def test_an_answer_stops_at_the_registered_size(tiny, host_of, answer):
    host = host_of(answer)
    size = (tiny.mirror / "tiny" / "b.png").stat().st_size
    with pytest.raises(
        CorruptFile, match=rf"tiny/b\.png is not the registered .*: more than {size} bytes, .*login page"
    ):
        fetch.fetch("tiny", "tiny/b.png")
    assert host.sent < 2**25  # buffers of the system, and not what a disk holds
    assert cached_files(tiny) == []


@pytest.mark.parametrize("answer", [dripping, dripping_header])
def test_an_answer_that_drips_is_given_up_and_its_host_left_alone(tiny, host_of, monkeypatch, answer):
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.4)
    host, threads = host_of(answer), threading.active_count()
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"3 of 3 files .* 0 of [0-9]+ bytes in [0-9] s, too slow"):
        fetch.fetch("tiny")
    assert time.monotonic() - start < 3
    assert host.asked == 1  # for three files
    assert cached_files(tiny) == []
    host.close()
    while threading.active_count() > threads - 1 and time.monotonic() - start < 10:
        time.sleep(0.01)
    assert threading.active_count() <= threads - 1  # none waits for ever


def test_a_slow_answer_that_comes_on_is_waited_for(tiny, host_of, monkeypatch):
    content = (tiny.mirror / "tiny" / "b.png").read_bytes()

    def slow(host, connection):
        host.send(connection, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
        for start in range(0, len(content), 10):
            host.send(connection, content[start : start + 10])
            host.wait(0.03)

    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(fetch, "SLOWEST", 10)
    monkeypatch.setattr(fetch, "CHUNK", 1)
    host_of(slow)
    assert fetch.fetch("tiny", "tiny/b.png").read_bytes() == content


# --- Why the network fails, without passwords


def test_missing_certificates_are_named(tiny, monkeypatch, capfd):
    tiny.address = f"https://127.0.0.1:{free_port()}"
    tiny.write_sources()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tiny.folder / "none.pem"))
    with pytest.raises(DataUnavailable, match=r"certificate.*none\.pem.*REQUESTS_CA_BUNDLE"):
        fetch.fetch("tiny")
    assert capfd.readouterr().err == ""  # no traceback of a thread


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("http://user:s3cret@127.0.0.1:{port}", r"no connection through the proxy http://\*\*\*@127\.0\.0\.1:{port}"),
        ("user:s3cret@127.0.0.1:{port}", r"check proxy URL.* through the proxy \*\*\*@127\.0\.0\.1:{port}"),
        ("socks5://user:s3cret@127.0.0.1:{port}", r"SOCKS.* through the proxy socks5://\*\*\*@127\.0\.0\.1:{port}"),
    ],
)
def test_the_proxy_is_named(tiny, monkeypatch, capfd, proxy, message):
    port = free_port()
    tiny.address = f"http://localhost:{free_port()}"
    tiny.write_sources()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.format(port=port))
    monkeypatch.setattr(requests.utils, "should_bypass_proxies", lambda *_, **__: False)  # localhost is no exception
    with pytest.raises(DataUnavailable, match=message.format(port=port)) as caught:
        fetch.fetch("tiny")
    assert "s3cret" not in str(caught.value) and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "mirror", ["http://reader:s3cret@{host}/data", "http://reader:s3@cret@{host}", "HTTP://s3cret@{host}"]
)
def test_no_message_shows_the_password_of_the_mirror(tiny, server, monkeypatch, capsys, mirror):
    """Messages end up in saved notebooks and on pages of reports."""
    host = server.address.removeprefix("http://")
    monkeypatch.setenv("DATA_MIRROR", mirror.format(host=host))
    server.status = 404
    said = []
    with pytest.warns(UserWarning, match=re.escape(f"***@{host}")) as caught:
        pictures.load_pictures("tiny")
    said += [str(one.message) for one in caught]
    fetch.main(["tiny"])
    said += [*capsys.readouterr()]

    (tiny.mirror / "tiny" / "b.png").write_bytes(HTML)  # the hash differs
    server.status = 200
    fetch._hosts.clear()
    (server_root := tiny.folder / "site" / "data").symlink_to(tiny.mirror)
    if "/data" in mirror:
        with pytest.raises(CorruptFile, match=re.escape(f"***@{host}")) as error:
            fetch.fetch("tiny", "tiny/b.png")
        said.append(str(error.value))
    server_root.unlink()

    monkeypatch.setenv("DATA_MIRROR", mirror.format(host=f"127.0.0.1:{free_port()}"))  # out of reach
    fetch._hosts.clear()
    with pytest.raises((DataUnavailable, CorruptFile)) as error:
        fetch.fetch("tiny")
    said.append(str(error.value))
    monkeypatch.setenv("DATA_MIRROR", "http://reader:s3/cret@host/data")
    with pytest.raises(ValueError, match=re.escape("'http://***@host/data'; write / ? # and @ within")) as error:
        fetch.fetch("tiny")
    said.append(str(error.value))
    monkeypatch.setenv("DATA_MIRROR", "ftp://reader:s3cret@host/data")
    with pytest.raises(ValueError, match=re.escape("'ftp://***@host/data'")) as error:
        fetch.fetch("tiny")
    said.append(str(error.value))
    assert len(said) >= 6
    for text in said:
        assert "s3" not in text and "cret" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a%40b/c.png", "https://host/a%40b/c.png"),
        ("http://me:pass@host:80/x", "http://***@host:80/x"),
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("http://me:pa/ss@host/x", "http://***@host/x"),
        ("proxy 'me:pass@host:80' (refused)", "proxy '***@host:80' (refused)"),
        ("see https://host/x?token=abc&b=c, then", "see https://host/x?*** then"),
        ("is this a login page? or not", "is this a login page? or not"),
    ],
)
def test_masked(text, shown):
    assert fetch.masked(text) == shown


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

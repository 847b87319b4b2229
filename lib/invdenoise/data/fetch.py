"""The files of the datasets: fetched once, and verified by SHA-256 at every use.

`data/sources.yaml` describes each dataset. `data/registry/` lists its files with their SHA-256. A file is taken from
the cache, from the mirror that DATA_MIRROR names (a folder or an http address), or from its public address, in this
order. `python -m invdenoise.data.fetch [ids]` fetches datasets and prints a table of them.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import functools
import hashlib
import os
import re
import shlex
import shutil
import stat
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote, urlsplit

import pooch
import requests
import yaml

from invdenoise import paths
from invdenoise.files import atomic, sha256

CONNECT_SECONDS = 5  # a host that has not answered by then counts as unreachable
PATIENCE_SECONDS = 30  # longest silence in the middle of a file; after it the slowest speed counts
SLOWEST = 5000  # bytes a second: a file may take PATIENCE_SECONDS + bytes / SLOWEST
CHUNK = 1024  # bytes: what a slow host must send before it is noticed
REMEMBER_SECONDS = 60  # how long we remember whether a host answered

CHECK_NETWORK = "check the network (a login page?), then run `make data`"
REMEDY = "Connect to the network, or set DATA_MIRROR to a folder or address that has the files; then run `make data`"

HOLDS = ("clean", "pairs", "noisy", "files")
ROLES = ("test", "train")
LAYOUTS = ("celeba", "cub200", "flowers102", "rice")  # of pictures fetched by hand; `categories` reads them
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # in a name: {001..120} stands for 001, 002, ..., 120


class DataUnavailable(RuntimeError):
    """A dataset is neither in the cache nor within reach. Only this error lets embedded pictures stand in."""


class CorruptFile(RuntimeError):
    """A file is there but differs from the registered one: truncated, altered, or a web page saved under its name."""


@dataclass(frozen=True)
class PairNames:
    """How the file names of a dataset of pairs are built.

    Attributes:
        noisy, clean: what tells the two files of a pair apart: endings of their names without suffix ("_real" and "_mean"), or
            folders ("Noisy/" and "GT/").
        scene: regular expression, searched in what the two paths have in common; its group is the scene.
        scenes: instead of `scene`, the names of the pairs of each scene. Without either, all pairs count as one scene.
    """

    noisy: str
    clean: str
    scene: str = ""
    scenes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.noisy or not self.clean or self.noisy == self.clean:
            raise ValueError(
                f"noisy is {self.noisy!r} and clean {self.clean!r}; expected two different endings or folders"
            )
        if self.scene and re.compile(self.scene).groups != 1:
            raise ValueError(f"scene is {self.scene!r}; expected a regular expression with one group")
        if self.scene and self.scenes:
            raise ValueError("scene and scenes are both given; expected one of them")
        listed = [name for names in self.scenes.values() for name in names]
        if repeated := [name for name in listed if listed.count(name) > 1]:
            raise ValueError(f"scenes lists {repeated[0]} twice; a pair has one scene")

    def part(self, file: str) -> tuple[str, str]:
        """Which part of a pair a file is, "noisy" or "clean", and what its path has in common with the other's.

        The first is empty for a file that is neither.
        """
        path = str(PurePosixPath(file).with_suffix(""))
        for part, mark in (("noisy", self.noisy), ("clean", self.clean)):
            if mark.endswith("/"):
                before, found, after = f"/{path}".rpartition(f"/{mark}")
                if found:
                    return part, f"{before}/{after}".lstrip("/")
            elif path.endswith(mark):
                return part, path.removesuffix(mark)
        return "", path


@dataclass(frozen=True)
class ByHand:
    """Pictures that are fetched by hand and told apart by their makers' lists.

    Attributes:
        folder: with the files, in the cache or the mirror; the training and the test set share it.
        layout: of the folder, one of LAYOUTS. The set's `role` says which part of it is meant.
        num_pictures: of the set, when the folder is complete.
    """

    folder: str
    layout: str
    num_pictures: int

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; expected one of {', '.join(LAYOUTS)}")
        if self.num_pictures < 1:
            raise ValueError(f"num_pictures is {self.num_pictures}; expected 1 or more")


@dataclass(frozen=True)
class Dataset:
    """An entry of `data/sources.yaml`. The head of that file explains the fields."""

    id: str
    title: str
    about: str
    files: str
    num_files: int
    channels: int | None
    addresses: dict[str, str]
    terms: str
    terms_short: str
    upstream: list[str]
    cite: list[str]
    holds: str = "clean"
    role: str = "test"
    pairs: PairNames | None = None
    members: str = ""
    by_hand: ByHand | None = None

    def __post_init__(self):
        for key, allowed in (("holds", HOLDS), ("role", ROLES)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}; expected one of {', '.join(allowed)}")
        if (self.pairs is not None) != (self.holds == "pairs"):
            raise ValueError("`pairs` gives the names of the files where `holds` is pairs, and only there")
        if (self.channels is None) != (self.holds == "files"):
            raise ValueError("`channels` is null where `holds` is files, and only there")
        if (self.members or self.by_hand) and self.holds != "clean":
            raise ValueError("`members` and `by_hand` are for sets whose `holds` is clean")
        if self.members:
            member_names(self.members)


@dataclass(frozen=True)
class RegisteredFile:
    """A line of `data/registry/<id>.csv`. `conversion` is empty if the public address has exactly these bytes."""

    file: str
    bytes: int
    sha256: str
    source_repo: str
    source_path: str
    conversion: str


def member_names(members: str) -> list[str]:
    """Names that a pattern with at most one range stands for: `a/{08..11}.jpg` is a/08.jpg, a/09.jpg, a/10.jpg, a/11.jpg.

    Numbers have as many digits as the first one, with leading zeros.

    Raises:
        ValueError: the range is empty, or the pattern has another brace.
    """
    found = RANGE.search(members)
    around = RANGE.split(members, maxsplit=1)[:: 3 if found else 1]
    if any(brace in part for part in around for brace in "{}"):
        raise ValueError(f"members is {members!r}; expected a name with one range of numbers such as {{001..120}}")
    if not found:
        return [members]
    first, last = (int(end) for end in found.groups())
    if last < first:
        raise ValueError(f"members is {members!r}; expected the lower number first")
    return [f"{around[0]}{number:0{len(found[1])}d}{around[1]}" for number in range(first, last + 1)]


# --- The registry


def dataset_ids() -> list[str]:
    """Every dataset of `data/sources.yaml`, in the order of that file."""
    return list(_datasets(paths.SOURCES))


def describe(dataset: str) -> Dataset:
    """What a dataset is, where it comes from and on what terms; ValueError for an unknown name."""
    datasets = _datasets(paths.SOURCES)
    if dataset not in datasets:
        raise unknown_dataset(dataset, [*datasets])
    return datasets[dataset]


def unknown_dataset(dataset: str, known: Sequence[str]) -> ValueError:
    """The error for a name that is not among the `known` ones; it suggests the nearest."""
    near = difflib.get_close_matches(str(dataset), known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"no dataset {dataset!r}; {hint}")


def registered_files(dataset: Dataset) -> tuple[RegisteredFile, ...]:
    """The files of a dataset in the order of its registry."""
    return _registry(paths.SOURCES.parent / dataset.files)


@functools.cache
def _datasets(path: Path) -> dict[str, Dataset]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: _dataset(name, entry, path) for name, entry in entries.items()}


def _dataset(name: str, entry: dict, path: Path) -> Dataset:
    try:
        pairs = PairNames(**entry["pairs"]) if entry.get("pairs") else None
        by_hand = ByHand(**entry["by_hand"]) if entry.get("by_hand") else None
        return Dataset(id=name, **(entry | {"pairs": pairs, "by_hand": by_hand}))
    except (TypeError, ValueError, re.error) as error:  # TypeError: an unknown or missing field
        raise ValueError(f"{path}, dataset {name}: {error}") from None


@functools.cache
def _registry(path: Path) -> tuple[RegisteredFile, ...]:
    with open(path, newline="", encoding="utf-8") as lines:
        return tuple(RegisteredFile(**{**row, "bytes": int(row["bytes"])}) for row in csv.DictReader(lines))


# --- By hand


def is_by_hand(dataset: str) -> bool:
    """Whether a dataset has to be fetched by hand: it is known, and no file of it is registered."""
    return dataset in dataset_ids() and not registered_files(describe(dataset))


def folder_of(dataset: str) -> Path:
    """The folder with the files of a dataset that is fetched by hand.

    Raises:
        DataUnavailable: there is none, or it is empty; the message says how to get the files and where to put them.
        ValueError: no such dataset, or one whose files are fetched by `make data`.
    """
    described = describe(dataset)
    if not is_by_hand(dataset):
        raise ValueError(f"{dataset} is fetched by `make data`, not by hand; load it by its name")
    name = described.by_hand.folder if described.by_hand else dataset
    places = [paths.cache_dir() / name]
    if (mirror := os.environ.get("DATA_MIRROR")) and "://" not in mirror:
        places.append(mirror_folder(mirror) / name)
    for place in places:
        if place.is_dir() and any(place.iterdir()):
            return place
    raise DataUnavailable(
        f"{dataset} ({described.title}) is not in {' or '.join(map(str, places))}, and cannot be fetched by a command. "
        f"{described.about} Its makers' page: {' '.join(described.upstream)}"
    )


def at_hand(dataset: str) -> str:
    """Which files of a dataset that is fetched by hand are there, in a few characters that change when a file does.

    Names, sizes and times count, since hashing gigabytes would take minutes.
    """
    try:
        folder = folder_of(dataset)
    except DataUnavailable:
        return "not at hand"
    files = []
    for place, _, names in os.walk(folder):  # a path object for each of 200,000 faces would take ten times as long
        inside = os.path.relpath(place, folder)
        for name in names:
            found = os.stat(os.path.join(place, name))
            if stat.S_ISREG(found.st_mode):
                file = name if inside == "." else f"{inside}{os.sep}{name}"
                files.append((file.split(os.sep), f"{file} {found.st_size} {found.st_mtime_ns}"))
    digest = hashlib.sha256("\n".join(line for _, line in sorted(files)).encode()).hexdigest()
    return f"{len(files)} files by hand, {digest[:16]}"


# --- Fetching


def fetch(dataset: str, file: str | None = None) -> list[Path] | Path:
    """Verified local paths of a dataset's files in the order of the registry, or of the one `file`.

    Args:
        dataset: an id of `dataset_ids()`.
        file: as the registry spells it, "weights/dncnn/sigma=25.mat".

    Raises:
        CorruptFile: a file in the cache, in the mirror or at the address is not the registered one.
        DataUnavailable: a file is not in the cache and could not be fetched.
        ValueError: no such dataset, or no such file in it.
    """
    described = describe(dataset)
    files = registered_files(described)
    if file is None:
        return fetch_files(described, files)
    wanted = [row for row in files if row.file == file]
    if not wanted:
        near = difflib.get_close_matches(file, [row.file for row in files], n=1)
        raise ValueError(f"{dataset} has no file {file!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return fetch_files(described, wanted)[0]


def fetch_files(dataset: Dataset, files: Sequence[RegisteredFile]) -> list[Path]:
    """Verified local paths of some files of a dataset; raises as `fetch` does."""
    outcome = _try_to_fetch(dataset, files)
    if outcome.corrupt:  # before missing files: a stand-in must not hide a broken cache
        raise outcome.corrupt[0]
    if outcome.missing:
        raise DataUnavailable(
            f"{dataset.id}: {len(outcome.missing)} of {len(files)} files are not in the cache and could not be "
            f"fetched. Tried: {'; '.join(outcome.tried)}. {REMEDY}"
        )
    return outcome.fetched


@dataclass
class _Outcome:
    """The result of trying to fetch some files."""

    fetched: list[Path] = field(default_factory=list)
    missing: list[RegisteredFile] = field(default_factory=list)
    corrupt: list[CorruptFile] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)  # for the first missing file: each place, and why it failed


def _try_to_fetch(dataset: Dataset, files: Sequence[RegisteredFile]) -> _Outcome:
    outcome = _Outcome()
    for file in files:
        path = paths.cache_dir() / file.file
        tried: list[str] = []
        try:
            if path.exists():
                remove = "rm -r" if path.is_dir() else "rm"
                _verify(path, file, str(path), f"mend it with `{remove} {shlex.quote(str(path))} && make data`")
            elif not _download(path, file, dataset, tried):
                outcome.missing.append(file)
                outcome.tried = outcome.tried or tried
                continue
            outcome.fetched.append(path)
        except CorruptFile as error:
            outcome.corrupt.append(error)
    return outcome


def _verify(path: Path, file: RegisteredFile, shown: str, remedy: str) -> None:
    """CorruptFile unless `path` has the registered bytes. The size comes first, so no other file is read in full."""
    if not path.is_file():  # reading a pipe or a device might never end
        found = f"a {'folder' if path.is_dir() else 'pipe or device'}"
    elif (size := path.stat().st_size) != file.bytes:
        found = f"{size} bytes"
    elif (digest := sha256(path)) != file.sha256:
        found = f"SHA-256 {digest[:12]}… of {size} bytes"
    else:
        return
    raise _corrupt(file, shown, found, remedy)


def _corrupt(file: RegisteredFile, shown: str, found: str, remedy: str) -> CorruptFile:
    return CorruptFile(
        f"{shown} is not the registered {file.file}: {found}, "
        f"expected SHA-256 {file.sha256[:12]}… of {file.bytes} bytes; {remedy}"
    )


def _download(path: Path, file: RegisteredFile, dataset: Dataset, tried: list[str]) -> bool:
    """Whether the verified file is now at `path`. Each place that failed is added to `tried` with the reason.

    Raises:
        CorruptFile: a place gave other bytes, and no later place gave the right ones.
    """
    corrupt = None
    for place in _places(file, dataset):
        if reason := _why_unavailable(place):
            tried.append(reason)
            continue
        try:
            if isinstance(place, Path):
                remedy = "replace it in the mirror, then run `make data`"
                _verify(place, file, str(place), remedy)  # before copying: the mirror's file may be endless
                with atomic(path) as temporary:
                    shutil.copyfile(place, temporary)
                    _verify(temporary, file, str(place), remedy)
            else:
                with atomic(path) as temporary:
                    _transfer(place, file, temporary)
                    _verify(temporary, file, masked(place), CHECK_NETWORK)
            return True
        except CorruptFile as error:
            corrupt = corrupt or error
        except _DownloadFailed as error:
            tried.append(str(error))
    if corrupt:
        raise corrupt
    if file.conversion:
        tried.append(f"no public address has {file.file}, which was converted ({file.conversion})")
    return False


def _places(file: RegisteredFile, dataset: Dataset) -> list[Path | str]:
    """Where a file may come from: a path in a mirror folder, or an address. The first choice is first."""
    places: list[Path | str] = []
    if mirror := os.environ.get("DATA_MIRROR", "").strip():
        if mirror.lower().startswith(("http://", "https://")):
            if "@" in mirror.partition("://")[2].removeprefix(_host(mirror)):
                raise ValueError(
                    f"DATA_MIRROR is {masked(mirror)!r}; write / ? # and @ within its user name and password as %2F %3F %23 %40"
                )
            places.append(f"{mirror.rstrip('/')}/{quote(file.file)}")
        elif "://" in mirror:
            raise ValueError(
                f"DATA_MIRROR is {masked(mirror)!r}; expected a folder, or an address with http:// or https://"
            )
        else:
            places.append(mirror_folder(mirror) / file.file)
    if not file.conversion:
        places.append(dataset.addresses[file.source_repo].format(path=quote(file.source_path)))
    return places


def mirror_folder(mirror: str) -> Path:
    """The folder that DATA_MIRROR names: `~` is the home folder.

    A notebook runs in its own folder, so a relative mirror may also be relative to the checkout.
    """
    folder = Path(os.path.expanduser(mirror))  # unlike Path.expanduser, no error for an unknown user
    return folder.absolute() if folder.is_dir() else paths.ROOT / folder


def _why_unavailable(place: Path | str) -> str:
    """Why nothing can be fetched from a place; empty if it can."""
    if isinstance(place, Path):
        if not place.exists():
            return f"the mirror has no {place}"
        return "" if os.access(place, os.R_OK) else f"the mirror's {place} may not be read"
    reason = _why_unreachable(place)
    return f"{masked(_host(place))}: {reason}" if reason else ""


class _DownloadFailed(Exception):
    """A host answers but did not deliver a file; the message says why."""


class _Received:
    """A file that takes no more than the registered bytes. The thread that waits for it sees how far it is.

    Args:
        handle: open for writing; closed by its owner.
        limit: in bytes.
    """

    def __init__(self, handle: IO[bytes], limit: int):
        self._handle, self._limit = handle, limit
        self.bytes, self.abandoned, self.too_long = 0, False, False
        self.failure: OSError | None = None  # of the disk

    def write(self, content: bytes) -> int:
        self.bytes += len(content)
        self.too_long = self.bytes > self._limit
        if self.abandoned or self.too_long:
            raise _DownloadFailed("stopped")
        try:
            return self._handle.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Pooch calls it at the end; closing the file does the work."""


def _transfer(address: str, file: RegisteredFile, target: Path) -> None:
    """Write what `address` answers to `target`, no more than the registered size and no slower than SLOWEST.

    The request runs in a thread. No time-out of its own covers an answer that comes byte by byte.

    Raises:
        CorruptFile: the answer is longer than the registered file.
        _DownloadFailed: no answer, or one too slow.
        OSError: the file cannot be written.
    """
    ends: list[Exception | None] = []

    with open(target, "wb") as handle:
        received = _Received(handle, file.bytes)

        def ask() -> None:
            try:
                download = pooch.HTTPDownloader(
                    timeout=(CONNECT_SECONDS, PATIENCE_SECONDS),
                    chunk_size=CHUNK,
                    headers={"Accept-Encoding": "identity"},  # compressed, an answer may grow without end
                )
                download(address, received, None)
                ends.append(None)
            except Exception as error:  # anything: a traceback of the thread would end up in the output
                error.__traceback__ = error.__context__ = None  # their frames would keep the connection open
                ends.append(error)

        thread, started = threading.Thread(target=ask, daemon=True), time.monotonic()
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
                late = time.monotonic() - started - PATIENCE_SECONDS
                if thread.is_alive() and late > 0 and received.bytes < late * SLOWEST:
                    reason = f"{received.bytes} of {file.bytes} bytes in {late + PATIENCE_SECONDS:.0f} s, too slow"
                    _hosts[_host(address)] = time.monotonic(), reason
                    raise _DownloadFailed(f"{masked(address)}: {reason}")
        finally:
            received.abandoned = True
    if received.too_long:
        raise _corrupt(file, masked(address), f"more than {file.bytes} bytes", CHECK_NETWORK)
    if received.failure:
        raise received.failure
    if error := ends[0]:
        if (
            getattr(getattr(error, "response", None), "status_code", None) != 404
        ):  # which says nothing about other files
            _hosts[_host(address)] = time.monotonic(), _short_reason(error, address)
        raise _DownloadFailed(f"{masked(address)}: {_short_reason(error, address)}")


_hosts: dict[str, tuple[float, str]] = {}  # host -> time of the last request, and why it failed ("" if it did not)


def _host(address: str) -> str:
    return urlsplit(address).netloc


def _why_unreachable(address: str) -> str:
    """Why a host does not answer within CONNECT_SECONDS; empty if it does. The answer serves for many files.

    The request runs in a thread: its own time-out covers neither a slow DNS lookup nor several addresses of one host.
    """
    asked, reason = _hosts.get(_host(address), (-float("inf"), ""))
    if time.monotonic() - asked < REMEMBER_SECONDS:
        return reason
    answers: list[str] = []

    def ask() -> None:
        try:
            requests.head(address, timeout=CONNECT_SECONDS)
            answers.append("")
        except Exception as error:  # anything: a traceback of the thread would end up in the output
            answers.append(_short_reason(error, address))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    reason = answers[0] if answers else f"no answer within {CONNECT_SECONDS} s{_through_proxy(address)}"
    _hosts[_host(address)] = time.monotonic(), reason
    return reason


def _short_reason(error: Exception, address: str) -> str:
    """Why a request failed, in a few words: the library's own messages run over several lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}{_through_proxy(address)}"
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    # "(SSLCertVerificationError(1, '[SSL] certificate verify failed'))": the words within
    words = masked(" ".join(str(cause).split()).rpartition("Error(")[2].strip("()'\". "))
    if isinstance(error, requests.exceptions.SSLError) or "certificate" in str(error):
        return (
            f"its TLS certificate cannot be checked: {words}. REQUESTS_CA_BUNDLE names a file of certificates to trust"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return f"no connection{_through_proxy(address)} ({type(cause).__name__})"
    if isinstance(error, requests.Timeout):
        return f"no answer in time{_through_proxy(address)}"
    if isinstance(error, requests.exceptions.InvalidSchema | requests.exceptions.InvalidURL) or not isinstance(
        error, requests.RequestException
    ):
        return f"{words or type(error).__name__}{_through_proxy(address)}"
    return f"no connection{_through_proxy(address)} ({type(cause).__name__})"


def _through_proxy(address: str) -> str:
    """Which proxy of the environment is used for an address, in words; empty if none."""
    proxy = requests.utils.select_proxy(address, requests.utils.get_environ_proxies(address))
    return f" through the proxy {masked(proxy)}" if proxy else ""


def masked(text: str) -> str:
    """An address, or a text with addresses, without user names, passwords and queries: messages end up in saved pages."""
    text = re.sub(r"(\w[\w+.-]*://)?[^\s'\"<>()]*@", r"\1***@", text)
    return re.sub(r"(://[^\s'\"<>()?]*)\?[^\s'\"<>()]*", r"\1?***", text)


# --- python -m invdenoise.data.fetch


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch datasets and print a table of them. Returns 1 if a file is corrupt, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m invdenoise.data.fetch", description="Fetch and verify the datasets."
    )
    parser.add_argument("ids", nargs="*", help="datasets to fetch (default: all)")
    outcomes: list[tuple[Dataset, _Outcome]] = []
    try:
        for dataset in [describe(name) for name in parser.parse_args(arguments).ids or dataset_ids()]:
            files = registered_files(dataset)
            print(f"{dataset.id}: {len(files)} files, {_megabytes(files)} MB ... ", end="", flush=True)
            outcomes.append((dataset, _try_to_fetch(dataset, files)))
            print(_status(outcomes[-1][1]), flush=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    line = "{:<26}{:>6}{:>6}{:>10}  {:<36}{}".format
    print("\n" + line("dataset", "files", "have", "size (MB)", "terms", "status"))
    for dataset, outcome in outcomes:
        files, have = registered_files(dataset), len(outcome.fetched)
        print(line(dataset.id, len(files), have, _megabytes(files), dataset.terms_short, _status(outcome)))

    for error in (error for _, outcome in outcomes for error in outcome.corrupt):
        print(f"\ncorrupt: {error}")
    missing: dict[str, list[str]] = {}
    for dataset, outcome in outcomes:
        if outcome.missing:
            missing.setdefault("; ".join(outcome.tried), []).append(dataset.id)
    for tried, names in missing.items():
        print(f"\nmissing: {', '.join(names)}. Tried: {tried}")
    if missing:
        print(f"\n{REMEDY}. Until then, pictures of scikit-image stand in for missing ones, and every score says so.")
    return int(any(outcome.corrupt for _, outcome in outcomes))


def _megabytes(files: Sequence[RegisteredFile]) -> str:
    return f"{sum(file.bytes for file in files) / 1e6:.1f}"


def _status(outcome: _Outcome) -> str:
    parts = [f"{len(outcome.corrupt)} corrupt"] if outcome.corrupt else []
    converted = sum(bool(file.conversion) for file in outcome.missing)
    if unreachable := len(outcome.missing) - converted:
        parts.append(f"{unreachable} missing: could not be reached")
    if converted:
        parts.append(f"{converted} missing: only a mirror has them")
    if not parts and not outcome.fetched:
        return "to be fetched by hand: see `about` in data/sources.yaml"
    return ", ".join(parts) or "complete"


if __name__ == "__main__":
    sys.exit(main())

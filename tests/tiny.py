"""Small datasets in a temporary folder, for the tests of fetching and of pictures."""

from __future__ import annotations

import csv
import hashlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from invdenoise import paths
from invdenoise.data import fetch

FIELDS = {
    "tiny": {"channels": 1},
    "lessons": {"channels": 1, "role": "train"},
    "shots": {"channels": 3},
    "couples": {
        "channels": 3,
        "holds": "pairs",
        "pairs": {"noisy": "_real", "clean": "_clean", "scene": "_([a-z]+)_[0-9]$"},
    },
    "grainy": {"channels": 3, "holds": "noisy"},
}
HTML = b"<html><body>404: not found</body></html>"


def free_port() -> int:
    """A local port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tiny:
    """Small datasets in a folder, as a mirror has them, and a registry of them.

    "tiny" is gray, "lessons" gray and for training, "shots" colour with a licence file, "couples" three pairs of two
    scenes with a licence file, "grainy" noisy pictures without clean ones.
    """

    def __init__(self, folder: Path):
        self.folder, self.mirror, self.cache = folder, folder / "mirror", folder / "cache"
        self.address = f"http://127.0.0.1:{free_port()}"
        rng = np.random.default_rng(0)
        self.gray = {f"{name}.png": rng.integers(0, 256, (9, 7), np.uint8) for name in ("a one", "b", "c")}
        for dataset in ("tiny", "lessons"):
            for name, pixels in self.gray.items():
                self._save(dataset, name, pixels)
        self._save("shots", "colour.png", rng.integers(0, 256, (5, 6, 3), np.uint8))
        self._save("shots", "gray.png", rng.integers(0, 256, (5, 6), np.uint8))
        for pair in ("cam_desk_1", "cam_desk_2", "cam_wall_1"):
            for ending in ("clean", "real"):
                self._save("couples", f"{pair}_{ending}.png", rng.integers(0, 256, (8, 9, 3), np.uint8))
        self._save("grainy", "stars.png", rng.integers(0, 256, (5, 6, 3), np.uint8))
        for dataset in ("shots", "couples"):
            (self.mirror / dataset / "License.txt").write_text("keep this notice")
        self.write_sources()

    def _save(self, dataset: str, name: str, pixels: np.ndarray) -> None:
        (self.mirror / dataset).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.mirror / dataset / name)

    def write_sources(self, conversion: str = "", **changes: dict) -> None:
        """Register the files of the mirror; their public address is `self.address`/public/<file>.

        `changes` are fields of a dataset that differ from the usual ones.
        """
        (self.folder / "registry").mkdir(exist_ok=True)
        sources = {}
        for dataset, fields in FIELDS.items():
            files = sorted((self.mirror / dataset).iterdir())
            sources[dataset] = {
                "title": dataset,
                "about": "",
                "files": f"registry/{dataset}.csv",
                "num_files": len(files),
                "addresses": {"me/it": self.address + "/public/{path}"},
                "terms": "",
                "terms_short": "free",
                "upstream": [],
                "cite": [],
                **fields,
                **changes.get(dataset, {}),
            }
            with open(self.folder / "registry" / f"{dataset}.csv", "w", newline="") as out:
                writer = csv.writer(out)
                writer.writerow(["file", "bytes", "sha256", "source_repo", "source_path", "conversion"])
                for path in files:
                    name, content = f"{dataset}/{path.name}", path.read_bytes()
                    digest = hashlib.sha256(content).hexdigest()
                    writer.writerow([name, len(content), digest, "me/it", name, conversion])
        (self.folder / "sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))
        fetch._datasets.cache_clear()
        fetch._registry.cache_clear()


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


def tiny_datasets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    """What a fixture yields: the library knows only the datasets of `Tiny`, with no mirror and an empty cache."""
    tiny = Tiny(folder)
    monkeypatch.setattr(paths, "SOURCES", folder / "sources.yaml")
    monkeypatch.setenv("INVDENOISE_CACHE", str(tiny.cache))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    fetch._hosts.clear()
    yield tiny
    fetch._hosts.clear()

"""What decides the result of a job, apart from files that the graph makes, as one small text file for each job.

A fact lists the code of the notebook, its parameters, the pictures that can be had, and the code of the library that
the job uses. The graph has it as an input. The file is written only when its text changes, so a job is done again when
something in it changes, and not when an editor saves a notebook or a comment is added. Comparing an old and a new text
shows why a job is done again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from invdenoise import paths
from invdenoise.data import benchmarks
from invdenoise.data.fetch import (
    CorruptFile,
    Dataset,
    DataUnavailable,
    RegisteredFile,
    dataset_ids,
    describe,
    fetch_files,
    registered_files,
)
from invdenoise.data.pictures import SUFFIXES
from invdenoise.files import atomic

FOLDER = "facts"  # in a results folder
PACKAGE = "invdenoise"
SOURCES = Path(__file__).parent  # of the library

# These find, check and write files, and change no number. What they read (declarations, weights, pictures) is listed by itself.
PLUMBING = frozenset({"data.fetch", "facts", "files", "hermetic", "papers", "paths", "plan", "provenance", "weights"})
# These serve every job, by name. Of the rooms on the right only what the job itself names counts.
BY_NAME = {"kernels.routing": {"models"}, "methods": {"kernels", "models"}, "tasks.base": {"kernels"}}
# Files other than Python that a module uses.
BESIDE = {"kernels.build": ("*.cpp", "*.h"), "report.page": ("*.j2",)}

INSIDE = "inside the library"  # of a set that is not fetched
LOADERS = (
    "fetch",
    "load_noisy",
    "load_pairs",
    "load_pictures",
    "load_real_pairs",
)  # functions whose first argument is a dataset
EXECUTION_TAGS = ("parameters", "raises-exception", "skip-execution")  # the tags that change how a notebook runs


# --- Files


def fact_file(results: Path, name: str) -> Path:
    """The file of a fact in a results folder."""
    return results / FOLDER / f"{name}.txt"


def write_fact(results: Path, name: str, text: str) -> Path:
    """Write a fact, whole or not at all. Its file stays untouched when it has this text already."""
    path = fact_file(results, name)
    _write_changed(path, text)
    return path


def _write_changed(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- Notebooks


@dataclass(frozen=True)
class Notebook:
    """What counts of a notebook.

    Attributes:
        code: hash of its code cells, without comments and without the cell of parameters.
        page: hash of code and text as a reader sees them, also without the cell of parameters.
        parameters: name -> value saved in the cell of parameters.
        imports: modules of the library that it imports, without the package's name.
        loads: datasets that it loads by a name in its code.
    """

    code: str
    page: str
    parameters: dict[str, Any]
    imports: frozenset[str]
    loads: frozenset[str]


def read_notebook(file: Path) -> Notebook:
    """What counts of a notebook. Outputs, metadata, cell numbers and empty cells do not.

    A file that is missing or is no notebook counts by its bytes: the job that executes it says what is wrong.
    """
    try:
        cells = list(_cells(json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        content = _hash(file.read_bytes()) if file.is_file() else "missing"
        return Notebook(content, content, {}, frozenset(), frozenset())
    code, page, parameters, imports, loads = [], [], {}, set(), set()
    for kind, tags, source in cells:
        if "parameters" in tags:
            parameters |= _saved_parameters(source)
            continue
        page.append([kind, tags, source])
        if kind == "code":
            tree = _parsed(source)
            code.append([tags, source if tree is None else ast.dump(_without_docstrings(tree))])
            imports |= set(_imports(tree)) if tree else set()
            loads |= {name for name, _ in _loads(tree)} if tree else set()
    return Notebook(hash_of(code), hash_of(page), parameters, frozenset(imports), frozenset(loads))


def _cells(notebook: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """Kind, tags that change the execution, and source of each cell that is not empty."""
    for cell in notebook["cells"]:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if source.strip():
            tags = sorted(tag for tag in cell.get("metadata", {}).get("tags", []) if tag in EXECUTION_TAGS)
            yield cell["cell_type"], tags, source.strip()


def _parsed(source: str) -> ast.Module | None:
    """The code of a cell; None for what is not plain Python, such as a line of IPython's own commands."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def _saved_parameters(source: str) -> dict[str, Any]:
    """Name -> value of each assignment `name = value`; the expression as text where it is no plain value."""
    saved = {}
    for node in getattr(_parsed(source), "body", []):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                saved[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                saved[node.targets[0].id] = ast.unparse(node.value)
    return saved


# --- Pictures


def set_fact(name: str, limit: int = 0, file: str | None = None) -> str:
    """Which pictures a set gives here: a hash of its registered files, or that they are not at hand.

    What a job would fetch is fetched now, so that the answer is the one that the job gets. A damaged file counts as at
    hand: the job that reads it stops and names it.

    Args:
        name: a set; those inside the library are always at hand.
        limit: of pictures or pairs, the first ones; 0 takes all.
        file: only this one of its files.
    """
    if name not in dataset_ids():
        return INSIDE
    if benchmarks.is_by_hand(name):
        return benchmarks.at_hand(name)
    dataset = describe(name)
    files = _files_of(dataset, limit)
    if file is not None:
        files = [row for row in registered_files(dataset) if row.file == file]
    if missing := [row for row in files if not _is_cached(row)]:
        try:
            fetch_files(dataset, missing)
        except DataUnavailable:
            return "not at hand"
        except (CorruptFile, OSError):
            pass
    return _registered(dataset, files)


def registered_set(name: str) -> str:
    """A set as it is registered, at hand or not."""
    return _registered(describe(name), registered_files(describe(name))) if name in dataset_ids() else INSIDE


def _registered(dataset: Dataset, files: Sequence[RegisteredFile]) -> str:
    how_read = [dataset.holds, dataset.channels, str(dataset.pairs), *filter(None, [dataset.members])]
    return f"{len(files)} files, {hash_of([how_read, [file.sha256 for file in files]])}"


def _files_of(dataset: Dataset, limit: int) -> list[RegisteredFile]:
    """The files that the first pictures or pairs of a set are in."""
    files = list(registered_files(dataset))
    if dataset.holds == "files" or dataset.members:  # pictures inside an archive
        return files
    files = [file for file in files if file.file.lower().endswith(SUFFIXES)]
    if not limit or dataset.pairs is None:
        return files[: limit or None]
    stems = {file: str(Path(file.file).with_suffix("")) for file in files}
    pairs = {
        file: stem.removesuffix(dataset.pairs.noisy).removesuffix(dataset.pairs.clean) for file, stem in stems.items()
    }
    first = list(dict.fromkeys(pairs.values()))[:limit]
    return [file for file in files if pairs[file] in first]


def _is_cached(file: RegisteredFile) -> bool:
    """Whether the cache has a file of the registered size. Hashes are compared by the job: here it would take too long."""
    path = paths.cache_dir() / file.file
    return path.is_file() and path.stat().st_size == file.bytes


# --- The library's code


@dataclass(frozen=True)
class Module:
    """What counts of a module: hash of its code, what it imports, and the files of datasets that it names."""

    code: str
    imports: tuple[str, ...]
    loads: tuple[tuple[str, str | None], ...]


class Library:
    """The code of the library, of which comments, docstrings and layout do not count.

    Args:
        cache: file that keeps what was found, by the hash of each source: parsing all takes about a second. None keeps nothing.
    """

    def __init__(self, cache: Path | None = None):
        self.cache = cache
        self._kept: dict[str, Any] = {}
        try:
            self._kept = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
        except (OSError, ValueError):  # none yet, or damaged: it is made anew
            pass
        self._files: dict[str, Path | None] = {}
        self._modules: dict[str, tuple[str, Module]] = {}
        self._sources: dict[Path, str] = {}
        self._ways: dict[str, frozenset[str]] = {}

    def close(self) -> None:
        """Keep what was found."""
        found = {key: asdict(module) for key, module in self._modules.values()}
        if self.cache and found.keys() - self._kept.keys():
            _write_changed(self.cache, json.dumps(found, indent=1, sort_keys=True))

    def has(self, module: str) -> bool:
        return self._file(module) is not None

    def module_of(self, name: str, room: str) -> list[str]:
        """The module that a declaration names, as `papers.resolve` finds it; none where it is outside of the library."""
        module = name.rpartition(".")[0]
        return [found for found in (f"{room}.{module}", module) if module and self.has(found)][:1]

    def reached(self, modules: Iterable[str]) -> list[str]:
        """Some modules and all that they import, directly or not, in alphabetical order; see PLUMBING and BY_NAME."""
        waiting = [module for module in modules if module not in PLUMBING and self.has(module)]
        found = set(waiting)
        while waiting:
            for other in self._followed(waiting.pop()) - found:
                found.add(other)
                waiting.append(other)
        return sorted(found)

    def facts(self, reached: Iterable[str]) -> list[str]:
        """A line with name and hash for each module, and for each file beside it that it uses."""
        lines = []
        for module in reached:
            lines.append(f"code {module} {self._module(module).code}")
            for pattern in BESIDE.get(module, ()):
                for file in sorted(self._file(module).parent.glob(pattern)):
                    lines.append(f"code {file.name} {self._source(file)}")
        return lines

    def loads(self, reached: Iterable[str]) -> list[tuple[str, str | None]]:
        """Datasets, with the file where it is one, that these modules load by a name in their code."""
        return sorted({load for module in reached for load in self._module(module).loads}, key=str)

    def _followed(self, module: str) -> frozenset[str]:
        """The imports of a module that count for a job that reaches it."""
        if module not in self._ways:
            others = {other for other in self._module(module).imports if other not in PLUMBING and self.has(other)}
            by_name = BY_NAME.get(module, set())
            self._ways[module] = frozenset(other for other in others if other.partition(".")[0] not in by_name)
        return self._ways[module]

    def _file(self, module: str) -> Path | None:
        if module not in self._files:
            inside = SOURCES.joinpath(*module.split("."))
            places = (inside.with_suffix(".py"), inside / "__init__.py")
            self._files[module] = next((file for file in places if file.is_file()), None)
        return self._files[module]

    def _source(self, file: Path) -> str:
        if file not in self._sources:
            self._sources[file] = _hash_of_source(file)
        return self._sources[file]

    def _module(self, module: str) -> Module:
        if module not in self._modules:
            source = self._file(module).read_bytes()
            key = f"{module} {_hash(_reader() + source)}"
            kept = self._kept.get(key)
            self._modules[module] = key, _kept_module(kept) if kept else _read_module(source)
        return self._modules[module][1]


@functools.cache
def _reader() -> bytes:
    """The code of this file: what an earlier version kept is not used."""
    return Path(__file__).read_bytes()


def _read_module(source: bytes) -> Module:
    tree = ast.parse(source)
    imports, loads = sorted(set(_imports(tree))), sorted(set(_loads(tree)), key=str)
    return Module(_hash(ast.dump(_without_docstrings(tree)).encode()), tuple(imports), tuple(loads))


def _kept_module(kept: Mapping[str, Any]) -> Module:
    return Module(kept["code"], tuple(kept["imports"]), tuple(map(tuple, kept["loads"])))


def _imports(tree: ast.Module) -> Iterator[str]:
    """What may be a module of the library, without the package's name: "tasks.base", and "tasks.base.Task" too."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def _loads(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Dataset and file of each call of LOADERS that names them. A file that is chosen at run time is not among them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = getattr(node.func, "id", getattr(node.func, "attr", ""))
        named = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
        if function in LOADERS and named and isinstance(named[0], str) and None not in named:
            yield named[0], named[1] if len(named) > 1 else None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)  # of C++


def _hash_of_source(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".cpp", ".h"):
        text = " ".join(_COMMENT.sub(" ", text).split())
    return _hash(text.encode())


# --- Hashes


def hash_of_files(files: Iterable[Path]) -> str:
    """A hash of names and bytes of some files."""
    return hash_of([[file.name, _hash(file.read_bytes())] for file in sorted(files)])


def hash_of(tree: Any) -> str:
    """A hash of lists, dictionaries and plain values."""
    return _hash(json.dumps(tree, sort_keys=True, default=str).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

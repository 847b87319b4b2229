"""Which version and commit made a result."""

from __future__ import annotations

import shutil
import subprocess
import warnings

import pytest

import invdenoise
from invdenoise import paths, provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of one commit with one tracked file, which the library takes for its own; a function runs git in it."""

    def git(*arguments):
        settings = ("-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file.txt").write_text("first")
    git("add", "file.txt")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    provenance.commit.cache_clear()
    yield git
    provenance.commit.cache_clear()


def fresh() -> str:
    """The commit, asked for anew; a warning is an error."""
    provenance.commit.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return provenance.commit()


def test_the_commit_is_named_by_twelve_digits_and_a_plus_for_changes(checkout, tmp_path):
    head = checkout("rev-parse", "HEAD")
    assert provenance.commit() == head[:12]
    (tmp_path / "new.txt").write_text("not tracked")
    provenance.commit.cache_clear()
    assert provenance.commit() == head[:12]
    (tmp_path / "file.txt").write_text("second")
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{head[:12]}+"


def test_a_tag_does_not_hide_the_commit(checkout):
    checkout("tag", "--annotate", "v1", "--message", "one")
    assert provenance.commit() == checkout("rev-parse", "HEAD")[:12]


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("lib/invdenoise/models/new.py", True),
        ("data/registry/new.csv", True),
        ("notebooks/new/paper.yaml", True),
        ("notebooks/new/mine.ipynb", False),
        ("notes/lib/plan.txt", False),
    ],
)
def test_a_new_file_counts_as_a_change_where_it_decides_results(checkout, tmp_path, name, decides):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert provenance.changes() == ([name] if decides else [])
    assert fresh().endswith("+") == decides


def test_changes_are_listed_whatever_their_names(checkout, tmp_path):
    (tmp_path / "other file.txt").write_text("first")
    (tmp_path / "größe.txt").write_text("first")
    checkout("add", ".")
    checkout("commit", "--quiet", "--message", "more")
    assert provenance.changes() == []
    (tmp_path / "größe.txt").write_text("second")
    (tmp_path / "file.txt").unlink()
    checkout("mv", "other file.txt", "moved.txt")
    assert sorted(provenance.changes()) == ["file.txt", "größe.txt", "moved.txt", "other file.txt"]


def test_outside_of_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert fresh() == "unknown"
    with pytest.raises(provenance.NoHistory, match="is not a git checkout; get one with `git clone`"):
        provenance.changes()
    provenance.commit.cache_clear()


@pytest.mark.parametrize("dot_git", [None, "folder"])
def test_the_commit_of_a_repository_around_is_never_ours(checkout, tmp_path, monkeypatch, dot_git):
    """An unpacked archive in somebody's own repository, and a checkout there whose own repository is broken."""
    vendored = tmp_path / "vendor" / "ours"
    vendored.mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", vendored)
    provenance.commit.cache_clear()
    if dot_git is None:
        assert fresh() == "unknown"
    else:
        (vendored / ".git").mkdir()
        with pytest.warns(UserWarning, match="recorded as 'unknown': .*not a git repository"):
            assert provenance.commit() == "unknown"


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY"])
def test_another_repository_in_the_environment_does_not_count(checkout, tmp_path, monkeypatch, variable):
    """Git sets these variables in hooks."""
    head = checkout("rev-parse", "HEAD")[:12]
    other = tmp_path / "lib" / "other"  # in a folder of ours, where a new file would count
    other.mkdir(parents=True)
    subprocess.run(["git", "-C", str(other), "init", "--quiet"], check=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(other), *identity, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    shutil.move(other, tmp_path.parent / f"{tmp_path.name}-other")
    theirs = tmp_path.parent / f"{tmp_path.name}-other" / ".git"
    places = {
        "GIT_INDEX_FILE": theirs / "index",
        "GIT_WORK_TREE": theirs.parent,
        "GIT_OBJECT_DIRECTORY": theirs / "objects",
    }
    monkeypatch.setenv(variable, str(places.get(variable, theirs)))
    assert fresh() == head


def test_another_users_checkout_has_its_commit(checkout, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(subprocess.CalledProcessError):  # plain git refuses
        checkout("rev-parse", "HEAD")
    assert len(fresh()) == 12


def test_a_linked_worktree_has_its_own_commit(checkout, tmp_path, monkeypatch):
    linked = tmp_path.parent / f"{tmp_path.name}-linked"
    checkout("worktree", "add", "--quiet", "--detach", str(linked))
    (tmp_path / "file.txt").write_text("changed in the main checkout alone")
    monkeypatch.setattr(paths, "ROOT", linked)
    assert fresh() == checkout("rev-parse", "HEAD")[:12]


def test_why_a_commit_is_unknown_is_said(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    provenance.commit.cache_clear()
    with pytest.warns(UserWarning, match="the commit is recorded as 'unknown': git cannot be run .*; install it"):
        assert provenance.commit() == "unknown"


def test_a_repository_without_commits_says_so(tmp_path, monkeypatch):
    subprocess.run(["git", "-C", str(tmp_path), "init", "--quiet"], check=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    provenance.commit.cache_clear()
    with pytest.warns(UserWarning, match="`git rev-parse` failed"):
        assert provenance.commit() == "unknown"
    provenance.commit.cache_clear()


def test_the_hash_of_the_sources_changes_with_each_of_them(tmp_path, monkeypatch):
    def found(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            file = folder / name.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
        provenance.sources_sha256.cache_clear()
        return provenance.sources_sha256()

    one = {"a_DOT_py": "x = 1\n", "kernels__k_DOT_cpp": "int x;\n"}
    hashes = [
        found(**one),
        found(**one | {"a_DOT_py": "x = 2\n"}),
        found(**one | {"kernels__k_DOT_cpp": "int y;\n"}),
        found(**one | {"b_DOT_py": ""}),
        found(**{"b_DOT_py": "x = 1\n", "kernels__k_DOT_cpp": "int x;\n"}),
        found(**{"a_DOT_py": "x = 1\nint x;\n", "kernels__k_DOT_cpp": ""}),
    ]
    assert len(set(hashes)) == len(hashes)
    assert found(**one, notes_DOT_txt="mine") == hashes[0]  # what is no code does not count
    provenance.sources_sha256.cache_clear()


def test_the_version_is_the_one_of_the_package():
    assert invdenoise.__version__ == provenance.VERSION

"""Which version and commit made a result."""

from __future__ import annotations

import subprocess

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


def test_outside_of_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance.commit.cache_clear()
    assert provenance.commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git either
    provenance.commit.cache_clear()
    assert provenance.commit() == "unknown"
    provenance.commit.cache_clear()


def test_the_version_is_the_one_of_the_package():
    assert invdenoise.__version__ == provenance.VERSION

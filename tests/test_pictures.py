"""Pictures and pairs: the right function for each set, stand-ins that say so, and the reader's own files."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import warnings
import zipfile
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import HTML, tiny_datasets

from invdenoise import paths
from invdenoise.data import fetch, pictures
from invdenoise.data.fetch import CorruptFile, DataUnavailable


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    yield from tiny_datasets(tmp_path, monkeypatch)


# --- What a set holds


def test_colour_sets_are_colour_and_leave_out_what_is_no_picture(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    shots = pictures.load_pictures("shots")
    assert [picture.name for picture in shots] == ["colour", "gray"]
    assert {picture.pixels.shape for picture in shots} == {(5, 6, 3)}
    assert len(fetch.fetch("shots")) == 3  # the licence goes with the files


def test_pairs_are_matched_by_name_in_the_order_of_the_registry(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    couples = pictures.load_pairs("couples")
    assert [pair.name for pair in couples] == ["cam_desk_1", "cam_desk_2", "cam_wall_1"]
    assert [pair.scene for pair in couples] == ["desk", "desk", "wall"] and couples.scenes == ("desk", "wall")
    for pair in couples:
        for picture, ending in ((pair.noisy, "real"), (pair.clean, "clean")):
            path = tiny.mirror / "couples" / f"{pair.name}_{ending}.png"
            assert picture.name == path.stem
            assert np.array_equal(picture.pixels, pictures.read_picture(path).pixels)
    assert (couples.name, couples.requested, couples.is_stand_in, len(couples)) == ("couples", "couples", False, 3)
    order = [f"cam_{name}_{ending}.png" for name in ("desk_1", "desk_2", "wall_1") for ending in ("real", "clean")]
    hashes = [hashlib.sha256((tiny.mirror / "couples" / name).read_bytes()).hexdigest() for name in order]
    assert couples.sha256 == hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def test_limit_counts_pairs_and_fetches_no_more(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    assert [pair.name for pair in pictures.load_pairs("couples", limit=1)] == ["cam_desk_1"]
    assert len(list((tiny.cache / "couples").iterdir())) == 2
    with pytest.raises(ValueError, match="limit is 0"):
        pictures.load_pairs("couples", limit=0)


def test_noisy_pictures_are_loaded_by_name_only(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    grainy = pictures.load_noisy("grainy")
    assert [picture.name for picture in grainy] == ["stars"] and grainy.name == "grainy"


@pytest.mark.parametrize(
    ("load", "dataset", "message"),
    [
        (
            "load_pictures",
            "sidd-samples",
            r"sidd-samples holds pairs .*not clean pictures .*SIDD samples.* use load_pairs\('sidd-samples'\)",
        ),
        ("load_pictures", "nam25", r"use load_pairs\('nam25'\)"),
        ("load_pictures", "polyu", r"use load_pairs\('polyu'\)"),
        ("load_pictures", "cc15", r"use load_pairs\('cc15'\)"),
        ("load_pictures", "rni15", r"rni15 holds noisy pictures without clean ones, .* use load_noisy\('rni15'\)"),
        ("load_pictures", "embedded-pairs", r"use load_pairs\('embedded-pairs'\)"),
        ("load_pictures", "weights", r"weights holds no pictures .* use fetch\('weights'\)"),
        ("load_pairs", "bsd68", r"bsd68 holds clean pictures, not pairs .* use load_pictures\('bsd68'\)"),
        ("load_pairs", "rni15", r"use load_noisy\('rni15'\)"),
        ("load_pairs", "kernels", r"use fetch\('kernels'\)"),
        ("load_noisy", "sidd-mini-val", r"use load_pairs\('sidd-mini-val'\)"),
        ("load_noisy", "embedded", r"use load_pictures\('embedded'\)"),
        ("load_pairs", "embedded-pears", "did you mean embedded-pairs"),
    ],
)
def test_a_set_is_loaded_only_as_what_it_holds(load, dataset, message):
    with pytest.raises(ValueError, match=message):
        getattr(pictures, load)(dataset, limit=1)


def test_num_pictures_counts_a_pair_once_and_a_licence_not_at_all(tiny):
    assert [pictures.num_pictures(name) for name in ("tiny", "shots", "couples", "grainy")] == [3, 2, 3, 1]
    assert not tiny.cache.exists()


def test_num_pictures_of_the_registered_and_embedded_sets():
    expected = {
        "bsd68": 68,
        "polyu": 100,
        "cc15": 15,
        "sidd-samples": 13,
        "rni15": 15,
        "weights": 0,
        "cifar10_subset": 0,
        "celeba-half-train": 9000,
        "celeba-half-validation": 500,
        "celeba-half-test": 500,
    }
    assert {name: pictures.num_pictures(name) for name in expected} == expected
    for name in fetch.dataset_ids():
        described = fetch.describe(name)
        if described.holds in ("clean", "noisy") and not described.members and not described.by_hand:
            assert pictures.num_pictures(name) == described.num_files, name
    assert pictures.num_pictures("embedded") == 6 == len(pictures.embedded("test"))
    assert pictures.num_pictures("embedded-pairs") == len(pictures.load_pairs("embedded-pairs"))
    with pytest.raises(ValueError, match="did you mean bsd68"):
        pictures.num_pictures("bsd86")


def test_pairs_that_do_not_fit_are_named(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    tiny.write_sources(couples={"pairs": {"noisy": "_real", "clean": "_mean"}})
    with pytest.raises(ValueError, match=r"couples/cam_desk_1_clean\.png ends neither in _real nor in _mean"):
        pictures.load_pairs("couples")
    tiny.write_sources(couples={"pairs": {"noisy": "_real", "clean": "_clean", "scene": "_([0-9]+)_[0-9]$"}})
    with pytest.raises(ValueError, match="couples/cam_desk_1 shows no scene"):
        pictures.load_pairs("couples")
    (tiny.mirror / "couples" / "cam_desk_2_clean.png").unlink()
    tiny.write_sources()
    with pytest.raises(ValueError, match=r"couples/cam_desk_2_real\.png has no partner"):
        pictures.num_pictures("couples")


def test_pair_of_two_sizes_is_refused():
    one, other = (pictures.Picture(name, np.zeros((4, width), np.uint8)) for name, width in (("n", 5), ("c", 6)))
    with pytest.raises(ValueError, match=r"pair p: n has shape \(4, 5\), c has shape \(4, 6\)"):
        pictures.Pair("p", one, other, "s")


def test_registered_file_that_is_no_picture_is_named(tiny, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", str(tiny.mirror))
    (tiny.mirror / "tiny" / "b.png").write_bytes(HTML)
    tiny.write_sources()
    with pytest.raises(ValueError, match=r"tiny/b\.png is no picture that can be decoded"):
        pictures.load_pictures("tiny")


# --- New sets: an entry and a list of files


def register(folder: Path, monkeypatch, **sets: dict) -> None:
    """Make the library know these sets only: fields of each entry, and under "list" the files of the mirror it has."""
    sources = {}
    (folder / "registry").mkdir()
    for name, fields in sets.items():
        files = fields.pop("list")
        lines = ["file,bytes,sha256,source_repo,source_path,conversion"]
        for file in files:
            content = (folder / "mirror" / file).read_bytes()
            lines.append(f"{file},{len(content)},{hashlib.sha256(content).hexdigest()},me/it,{file},")
        (folder / "registry" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        sources[name] = {"title": name, "about": "", "files": f"registry/{name}.csv", "num_files": len(files), "channels": 3,
                         "addresses": {"me/it": "http://127.0.0.1:9/{path}"}, "terms": "", "terms_short": "", "upstream": [],
                         "cite": [], **fields}  # fmt: skip
    (folder / "sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))
    monkeypatch.setattr(paths, "SOURCES", folder / "sources.yaml")
    monkeypatch.setenv("INVDENOISE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("DATA_MIRROR", str(folder / "mirror"))


def fill(folder: Path, *names: str) -> list[str]:
    """Small colour pictures in the mirror, each of its own grey level."""
    for level, name in enumerate(names):
        path = folder / "mirror" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 4, 3), level, np.uint8)).save(path)
    return list(names)


def levels(pairs: pictures.PairSet) -> list[tuple[str, int, int]]:
    return [(pair.name, int(pair.noisy.pixels[0, 0, 0]), int(pair.clean.pixels[0, 0, 0])) for pair in pairs]


def test_two_sets_of_one_folder_whose_names_repeat(tmp_path, monkeypatch):
    train = fill(tmp_path, *(f"mini/train/0_{k}_{end}.png" for k in (0, 1) for end in ("NOISY", "GT")))
    val = fill(tmp_path, *(f"mini/val/0_{k}_{end}.png" for k in (1, 0) for end in ("GT", "NOISY")))
    ends = {"holds": "pairs", "pairs": {"noisy": "_NOISY", "clean": "_GT"}}
    register(
        tmp_path,
        monkeypatch,
        train={"list": train, **ends},
        val={"list": val, **ends},
        both={"list": train + val, **ends},
    )
    assert levels(pictures.load_pairs("train")) == [("0_0", 0, 1), ("0_1", 2, 3)]
    assert levels(pictures.load_pairs("val")) == [("0_1", 1, 0), ("0_0", 3, 2)]
    names = [name for name, *_ in levels(pictures.load_pairs("both"))]
    assert names == ["train-0_0", "train-0_1", "val-0_1", "val-0_0"]  # each name stands for one picture
    assert [name for name, *_ in levels(pictures.load_pairs("both", limit=1))] == ["train-0_0"]


def test_pairs_in_two_folders(tmp_path, monkeypatch):
    files = fill(tmp_path, "set/GT/a.png", "set/GT/b.PNG", "set/Noisy/a.png", "set/Noisy/b.PNG")
    pairs = {"noisy": "Noisy/", "clean": "GT/", "scenes": {"one": ["a"], "two": ["b"]}}
    register(tmp_path, monkeypatch, folders={"list": files, "holds": "pairs", "pairs": pairs})
    found = pictures.load_pairs("folders")
    assert levels(found) == [("a", 2, 0), ("b", 3, 1)] and found.scenes == ("one", "two")
    assert len({picture.name for pair in found for picture in (pair.noisy, pair.clean)}) == 4


def test_pictures_whose_names_repeat_are_told_apart(tmp_path, monkeypatch):
    files = fill(tmp_path, "set/x/a.png", "set/y/a.png", "set/b.tif")
    register(tmp_path, monkeypatch, repeated={"list": files}, same={"list": fill(tmp_path, "set/c.png", "set/c.bmp")})
    assert [picture.name for picture in pictures.load_pictures("repeated")] == ["x-a", "y-a", "b"]
    assert [picture.name for picture in pictures.load_pictures("repeated", limit=1)] == ["x-a"]
    with pytest.raises(ValueError, match="same: two pictures are named c; rename one in the registry"):
        pictures.load_pictures("same")


def fill_archive(folder: Path, *names: str, kind: str = "jpeg") -> list[str]:
    """A zip file in the mirror with a colour picture for each name, whose grey level is ten times its place."""
    path = folder / "mirror" / "set" / "all.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for place, name in enumerate(names):
            content = io.BytesIO()
            Image.fromarray(np.full((8, 9, 3), 10 * place, np.uint8)).save(content, kind)
            archive.writestr(name, content.getvalue())
    return ["set/all.zip"]


def test_pictures_are_read_out_of_an_archive(tmp_path, monkeypatch):
    archive = fill_archive(tmp_path, *(f"in/{number:02d}.jpg" for number in range(12)), "in/notes.txt")
    sets = {"first": {"members": "in/{00..08}.jpg"}, "last": {"members": "in/{09..11}.jpg"}}
    sets["gray"] = {"members": "in/03.jpg", "channels": 1}
    register(tmp_path, monkeypatch, **{name: {"list": archive, **fields} for name, fields in sets.items()})
    assert [pictures.num_pictures(name) for name in ("first", "last", "gray")] == [9, 3, 1]
    assert not (tmp_path / "cache").exists()  # they are counted without the archive
    last = pictures.load_pictures("last")
    assert [(one.name, one.pixels.shape, one.pixels[0, 0].tolist()) for one in last] == [
        (f"{number:02d}", (8, 9, 3), [10 * number] * 3) for number in (9, 10, 11)
    ]
    (gray,) = pictures.load_pictures("gray")
    assert gray.pixels.shape == (8, 9) and gray.pixels[0, 0] == 30
    assert [one.name for one in pictures.load_pictures("last", limit=2)] == ["09", "10"]
    wanted = (("first", None), ("last", None), ("last", 2))
    assert len({pictures.load_pictures(name, limit=limit).sha256 for name, limit in wanted}) == 3
    files = [str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files == ["set/all.zip"]  # fetched once, and nothing is unpacked


def test_an_archive_out_of_reach_is_stood_in_for_but_a_damaged_one_is_not(tmp_path, monkeypatch):
    archive = fill_archive(tmp_path, "1.jpg", "2.jpg")
    register(tmp_path, monkeypatch, packed={"list": archive, "members": "{1..2}.jpg"})
    assert len(pictures.load_pictures("packed")) == 2
    cached = tmp_path / "cache" / "set" / "all.zip"
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match=r"all\.zip is not the registered set/all\.zip"):
        pictures.load_pictures("packed")
    cached.unlink()
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "elsewhere"))
    with pytest.warns(UserWarning, match="'embedded-colour' stand in for packed"):
        assert pictures.load_pictures("packed", limit=2).is_stand_in


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("{1..3}.jpg", r"all\.zip has no 3\.jpg, which packed needs; correct `members` of packed"),
        ("2.jpg", r"all\.zip: 2\.jpg is damaged \(Bad CRC-32"),
        ("web.jpg", r"all\.zip: web\.jpg is damaged \(cannot identify"),
        ("half.jpg", r"all\.zip: half\.jpg is damaged \(Truncated File Read"),
        ("pixels.png", r"all\.zip: pixels\.png is damaged"),
        ("inks.jpg", r"all\.zip: inks\.jpg is damaged \(its colours are CMYK"),
    ],
)
def test_a_member_that_is_missing_or_damaged_is_one_clear_error(tmp_path, monkeypatch, members, message):
    listed = fill_archive(tmp_path, "1.jpg", "2.jpg")
    path = tmp_path / "mirror" / "set" / "all.zip"
    with zipfile.ZipFile(path, "a") as archive:
        good = archive.read("1.jpg")
        archive.writestr("web.jpg", HTML)
        archive.writestr("half.jpg", good[: len(good) // 2])
        for name, kind, mode in (("pixels.png", "png", "RGB"), ("inks.jpg", "jpeg", "CMYK")):
            content = io.BytesIO()
            Image.new(mode, (8, 9)).save(content, kind)
            archive.writestr(name, content.getvalue())
        start = archive.getinfo("2.jpg").header_offset + 200
    content = bytearray(path.read_bytes())
    content[start] ^= 255
    path.write_bytes(content)
    register(tmp_path, monkeypatch, packed={"list": listed, "members": members})
    with pytest.raises(CorruptFile, match=message):
        pictures.load_pictures("packed")


def test_members_need_one_zip_file(tmp_path, monkeypatch):
    register(tmp_path, monkeypatch, loose={"list": fill(tmp_path, "set/a.png"), "members": "a.jpg"})
    with pytest.raises(ValueError, match="loose has `members` and 0 zip files; register one"):
        pictures.load_pictures("loose")


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ({"one": ["a"]}, "sets: b has no scene; list it under `scenes`"),
        ({"one": ["a", "b", "c"]}, "sets: scenes lists c, which is no pair of the set"),
    ],
)
def test_scenes_list_every_pair(tmp_path, monkeypatch, scenes, message):
    files = fill(tmp_path, "set/a_n.png", "set/a_c.png", "set/b_n.png", "set/b_c.png")
    pairs = {"noisy": "_n", "clean": "_c", "scenes": scenes}
    register(tmp_path, monkeypatch, sets={"list": files, "holds": "pairs", "pairs": pairs})
    with pytest.raises(ValueError, match=message):
        pictures.load_pairs("sets")


# --- Held-out scenes


def make_pairs(*scenes: str) -> pictures.PairSet:
    """One pair a scene given, each of its own grey level."""
    black = [pictures.Picture(str(number), np.full((4, 4), number, np.uint8)) for number in range(len(scenes))]
    pairs = tuple(pictures.Pair(one.name, one, one, scene) for one, scene in zip(black, scenes, strict=True))
    return pictures.PairSet("made", "made", pairs, "")


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize(("held_out", "number"), [(1, 1), (2, 2), (0.5, 2), (0.01, 1), (0, 0)])
def test_no_scene_is_on_both_sides_of_a_split(held_out, number, seed):
    pairs = make_pairs("a", "b", "a", "c", "d", "c", "a")
    train, held = pictures.split_scenes(pairs, held_out, seed)
    assert not set(train.scenes) & set(held.scenes) and len(held.scenes) == number
    assert set(train.scenes) | set(held.scenes) == {"a", "b", "c", "d"}
    assert sorted(pair.name for part in (train, held) for pair in part) == [str(k) for k in range(7)]  # none is lost
    again = pictures.split_scenes(pairs, held_out, seed)
    assert [part.sha256 for part in again] == [train.sha256, held.sha256]
    if seed is None:
        assert held.scenes == ("a", "b", "c", "d")[4 - number :]


def test_the_seed_draws_the_scenes():
    pairs = make_pairs(*"abcdefgh")
    drawn = {pictures.split_scenes(pairs, 2, seed)[1].scenes for seed in range(10)}
    assert len(drawn) > 4


def test_sets_are_joined_and_scenes_kept_or_left_out():
    first, second = pictures.load_pairs("embedded-pairs"), pictures.load_pairs("embedded-pairs-train")
    assert pictures.join([first]) is first
    both = pictures.join([first, second])
    assert both.name == "embedded-pairs+embedded-pairs-train" and len(both) == len(first) + len(second)
    assert both.sha256 not in (first.sha256, second.sha256)
    assert both.pairs[0].scene == f"embedded-pairs/{first.pairs[0].scene}"
    scene = both.scenes[1]
    kept, rest = pictures.keep_scenes(both, [scene]), pictures.leave_out_scenes(both, [scene])
    assert kept.scenes == (scene,) and scene not in rest.scenes
    assert [pair.name for pair in both if pair.scene == scene] == [pair.name for pair in kept]
    assert len(kept) + len(rest) == len(both) and kept.sha256 != rest.sha256
    for wrong in (pictures.keep_scenes, pictures.leave_out_scenes):
        with pytest.raises(ValueError, match="has no scene 'moon'; it has embedded-pairs/"):
            wrong(both, ["moon"])


def test_split_scenes_refuses_what_leaves_nothing():
    pairs = make_pairs("a", "b")
    for held_out, message in (
        (2, "cannot hold out 2 of 2 scenes of made; nothing is left to train on"),
        (0.9, "cannot hold out 2 of 2 scenes of made"),
        (-1, "cannot hold out -1 scenes of made; expected a whole number"),
        (True, "cannot hold out True"),
        (1.0, "held_out is 1; expected a number of scenes, or a share between 0 and 1"),
        (float("nan"), "held_out is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            pictures.split_scenes(pairs, held_out)


def test_split_last():
    made = pictures.PictureSet("made", "made", tuple(pair.clean for pair in make_pairs("a", "b", "c")), "")
    train, held = pictures.split_last(made, 1)
    assert [picture.name for picture in train] == ["0", "1"] and [picture.name for picture in held] == ["2"]
    assert len(pictures.split_last(made, 0)[1]) == 0
    with pytest.raises(ValueError, match="cannot hold out 3 of 3 pictures of made; nothing is left"):
        pictures.split_last(made, 3)


# --- Embedded pictures


@pytest.mark.parametrize(
    ("load", "dataset", "name", "what"),
    [
        ("load_pictures", "tiny", "embedded", "gray pictures"),
        ("load_pictures", "lessons", "embedded-train", "gray pictures"),
        ("load_pictures", "shots", "embedded-colour", "colour pictures"),
        ("load_pairs", "couples", "embedded-pairs", "pairs"),
        ("load_noisy", "grainy", "embedded-noisy", "noisy pictures"),
    ],
)
def test_embedded_pictures_stand_in_and_say_so(tiny, load, dataset, name, what):
    load = getattr(pictures, load)
    with pytest.warns(UserWarning, match=f"2 {what} of '{name}' stand in for {dataset}: .*DATA_MIRROR") as caught:
        loaded = load(dataset, limit=2)
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and caught[0].filename == __file__
    assert (loaded.name, loaded.requested, loaded.is_stand_in, len(loaded)) == (name, dataset, True, 2)
    assert load(name, limit=2).sha256 == loaded.sha256
    with pytest.raises(DataUnavailable):
        load(dataset, stand_in=False)


def test_the_role_of_a_set_decides_what_stands_in(tiny):
    tiny.write_sources(**{name: {"role": "train"} for name in ("shots", "couples", "grainy")})
    with pytest.warns(UserWarning):
        assert pictures.load_pictures("shots").name == "embedded-colour-train"
        assert pictures.load_pairs("couples").name == "embedded-pairs-train"
        assert pictures.load_noisy("grainy").name == "embedded-noisy-train"


def test_embedded_pictures_are_fixed_and_need_no_network(monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("embedded pictures must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    test, train = pictures.embedded("test"), pictures.embedded("train")
    assert (test.name, len(test), train.name, len(train)) == ("embedded", 6, "embedded-train", 12)
    # Scores on these pictures compare only as long as the pixels stay what they are.
    assert test.sha256 == "f37a982fe24fd7ad7b7a7506c4889d4015d2b51525050f1a6a9bc67522fc13e3"
    assert train.sha256 == "930334300c7e12cf3636b469c73bc4004b932c52b03e285563485a1dca64bcb2"
    assert pictures.load_pictures("embedded").sha256 == test.sha256
    assert pictures.load_pictures("embedded-train", limit=3).name == "embedded-train"
    found = {}
    for name, embedded_set in pictures.EMBEDDED.items():
        loaded = getattr(pictures, pictures.LOADERS[embedded_set.holds])(name)
        ones = [pair.clean for pair in loaded] if embedded_set.holds == "pairs" else list(loaded)
        side = 180 if name.endswith("-train") else 192
        assert {one.pixels.shape for one in ones} == {(side, side, 3)[: 2 + (embedded_set.channels == 3)]}
        assert all(one.pixels.std() > 10 for one in ones)  # none is flat
        found[name] = loaded.sha256[:16]
    assert found == {
        "embedded": "f37a982fe24fd7ad",
        "embedded-train": "930334300c7e12cf",
        "embedded-colour": "0a8ff13ef1fc8e34",
        "embedded-colour-train": "24c1ecead9193fc6",
        "embedded-pairs": "4db34f3440880961",
        "embedded-pairs-train": "d5c7813fbb5ccd39",
        "embedded-noisy": "02e2df3f37adb99f",
        "embedded-noisy-train": "6d7f082eb656aa5c",
    }


def test_training_and_test_sets_share_no_picture_and_crops_no_pixel():
    photographs = {name: {stem for stem, *_ in one.crops} for name, one in pictures.EMBEDDED.items()}
    train = set().union(*(stems for name, stems in photographs.items() if name.endswith("-train")))
    test = set().union(*(stems for name, stems in photographs.items() if not name.endswith("-train")))
    assert len(train) >= 5 and len(test) >= 4 and not train & test
    for one in pictures.EMBEDDED.values():
        for (a, top_a, left_a), (b, top_b, left_b) in combinations(one.crops, 2):
            assert a != b or abs(top_a - top_b) >= one.side or abs(left_a - left_b) >= one.side
    with pytest.raises(ValueError, match="role is 'validation'; expected one of test, train"):
        pictures.embedded("validation")


def test_embedded_pairs_have_several_scenes_and_noise_that_grows_with_brightness():
    for name, colour in (("embedded-pairs", "embedded-colour"), ("embedded-pairs-train", "embedded-colour-train")):
        pairs = pictures.load_pairs(name)
        assert len(pairs.scenes) >= 3
        for pair, picture in zip(pairs, pictures.load_pictures(colour), strict=True):
            assert pair.name == picture.name and pair.name.startswith(pair.scene + "-")
            assert np.array_equal(pair.clean.pixels, picture.pixels)
    noise, clean = (
        np.concatenate([array.ravel() for array in arrays])
        for arrays in zip(
            *((pair.noisy.pixels.astype(float) - pair.clean.pixels, pair.clean.pixels) for pair in pairs), strict=True
        )
    )
    for level in (60, 120, 180):  # far from black and white, where clipping takes part of the noise
        expected = 255 * np.sqrt(pictures.GAIN * level / 255 + pictures.FLOOR)
        assert noise[clean == level].std() == pytest.approx(expected, rel=0.05)
    first = pictures.load_pairs("embedded-pairs", limit=1).pairs[0]
    assert np.array_equal(first.noisy.pixels, pictures.load_noisy("embedded-noisy").pictures[0].pixels)


def test_picture_tensor():
    gray = pictures.Picture("g", np.array([[0, 51], [102, 255]], np.uint8)).tensor()
    assert gray.dtype == torch.float32
    assert torch.equal(gray, torch.tensor([[[[0, 0.2], [0.4, 1]]]]))
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 2] = 255, 0, 51
    colour = pictures.Picture("c", pixels).tensor(torch.float64)
    assert colour.shape == (1, 3, 2, 3) and colour.dtype == torch.float64
    assert colour[0, :, 0, 2].tolist() == [1, 0, 0.2]


# --- The reader's own picture


def test_read_picture_gray_and_colour(tmp_path):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.stack([gray, gray + 1, gray + 2], -1)
    for name, pixels in (("my.gray.png", gray), ("colour.tif", colour), ("colour.bmp", colour)):
        Image.fromarray(pixels).save(tmp_path / name)
        picture = pictures.read_picture(str(tmp_path / name))
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
        assert np.array_equal(pictures.read_picture(tmp_path / name).pixels, deep >> 8), name
    write_png16(tmp_path / "colour.png", np.stack([deep, deep // 2, deep // 3], -1))
    expected = np.stack([deep, deep // 2, deep // 3], -1) >> 8
    assert np.array_equal(pictures.read_picture(tmp_path / "colour.png").pixels, expected)


def test_read_picture_lays_transparent_parts_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3] = 200, 0, 100
    pixels[0, :, 3] = 255, 0, 51  # opaque, transparent, one fifth
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    with pytest.warns(UserWarning, match=r"rgba\.png: transparent parts are laid on white"):
        red = pictures.read_picture(tmp_path / "rgba.png").pixels
    assert red.tolist() == [[[200, 0, 100], [255, 255, 255], [244, 204, 224]]]
    Image.fromarray(pixels[..., 2:]).save(tmp_path / "la.png")
    assert pictures.read_picture(tmp_path / "la.png").pixels.tolist() == [[100, 255, 224]]


def test_read_picture_turns_a_photograph_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.fromarray(np.array([[0, 1, 2], [3, 4, 5]], np.uint8)).save(tmp_path / "photo.png", exif=exif)
    assert pictures.read_picture(tmp_path / "photo.png").pixels.tolist() == [[3, 0], [4, 1], [5, 2]]


def test_read_picture_errors_name_the_file_and_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no picture .*none\.png; check the name"):
        pictures.read_picture(tmp_path / "none.png")
    with pytest.raises(ValueError, match="is a folder"):
        pictures.read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is no regular file"):
        pictures.read_picture(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png is empty \(0 bytes\)"):
        pictures.read_picture(tmp_path / "empty.png")
    (tmp_path / "page.png").write_bytes(HTML)
    with pytest.raises(ValueError, match=r"page\.png is no picture that can be decoded"):
        pictures.read_picture(tmp_path / "page.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for suffix in ("png", "jpg", "tif"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-1500])
        with pytest.raises(ValueError, match=rf"cut\.{suffix} (cannot be decoded, it breaks off|is no picture)"):
            pictures.read_picture(path)
    Image.fromarray(noise.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="32-bit pixels.*save it with 8 or 16 bits"):
        pictures.read_picture(tmp_path / "float.tif")


def test_what_was_assumed_or_left_out_is_a_warning_that_names_the_file(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), 40 * number, np.uint8)) for number in range(1, 4)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"stack\.tif: only the first of 3 pages is read") as caught:
        pictures.read_picture(tmp_path / "stack.tif")
    assert len(caught) == 1 and caught[0].filename == __file__
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "camera.png")
    with pytest.warns(UserWarning, match=r"camera\.png: its brightest value is 4000 of 65535, so 12 bits"):
        assert pictures.read_picture(tmp_path / "camera.png").pixels.max() == 4000 >> 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.read_picture(tmp_path / "camera.png", bits=16).pixels.max() == 4000 >> 8


def test_tilde_is_the_home_folder_or_part_of_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert pictures.write_picture("~/a.png", torch.zeros(2, 2)) == tmp_path / "a.png"
    assert pictures.read_picture("~/a.png").name == "a"
    (tmp_path / "a.png").rename(tmp_path / "~draft.png")
    assert pictures.read_picture("~draft.png").name == "~draft"


def test_write_picture_rounds_and_comes_back(tmp_path):
    levels = torch.tensor([[0.0, 0.49 / 255, 0.51 / 255], [1.0, 1.7, -0.3]])
    path = pictures.write_picture(tmp_path / "new" / "gray.png", levels[None, None])
    assert pictures.read_picture(path).pixels.tolist() == [[0, 0, 1], [255, 255, 0]]
    colour = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    path = pictures.write_picture(tmp_path / "colour.tif", colour)
    assert torch.equal(pictures.read_picture(path).tensor(torch.float64), (colour.double() * 255).round() / 255)
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
        pictures.write_picture(tmp_path / name, pixels)
    assert list(tmp_path.iterdir()) == []


# --- The data themselves, where they can be had


def real(dataset: str, load=pictures.load_pictures):
    try:
        return load(dataset, stand_in=False)
    except DataUnavailable as error:
        pytest.skip(f"data not available: {error}")


def test_bsd68():
    bsd68 = real("bsd68")
    assert len(bsd68) == 68
    assert {picture.pixels.shape for picture in bsd68} == {(481, 321), (321, 481)}


def test_set12():
    set12 = real("set12")
    assert [picture.name for picture in set12] == [f"{k:02}" for k in range(1, 13)]
    assert [picture.pixels.shape[0] for picture in set12] == [256] * 7 + [512] * 5


# Mean PSNR of noisy against clean, as measured when the mirror was made. Wrong partners would be far below.
@pytest.mark.parametrize(
    ("dataset", "number", "scenes", "psnr"),
    [
        ("cc15", 15, 8, 33.41),
        ("polyu", 100, 23, 35.97),
        ("sidd-samples", 13, 6, 22.45),
        ("nam25", 25, 1, 37.06),
        ("sidd-mini-val", 10, 1, 23.20),
    ],
)
def test_real_pairs(dataset, number, scenes, psnr):
    pairs = real(dataset, pictures.load_pairs)
    assert (len(pairs), len(pairs.scenes)) == (number, scenes)
    errors = [np.mean((pair.noisy.pixels.astype(float) - pair.clean.pixels) ** 2) for pair in pairs]
    assert np.mean(10 * np.log10(255**2 / np.array(errors))) == pytest.approx(psnr, abs=0.006)


def test_a_set_of_one_scene_cannot_be_split():
    pairs = real("sidd-mini-train", pictures.load_pairs)
    assert [pair.name for pair in pairs] == [f"0_{number}" for number in range(10)]
    with pytest.raises(ValueError, match="cannot hold out 1 of 1 scenes of sidd-mini-train"):
        pictures.split_scenes(pairs, 1)


def test_objects_that_recur_are_one_scene():
    pairs = real("cc15", pictures.load_pairs)
    train, held = pictures.split_scenes(pairs, 3)
    assert len(train) + len(held) == 15 and len(held.scenes) == 3
    scene = {pair.name: pair.scene for pair in pairs}
    assert scene["5dmark3_iso3200_3"] == scene["d600_iso3200_1"]  # the same print before two cameras


def test_rni15():
    assert len(real("rni15", pictures.load_noisy)) == 15


def test_a_picture_or_pair_is_chosen_by_its_name_or_comes_first():
    for found in (pictures.load_pictures("embedded"), pictures.load_pairs("embedded-pairs")):
        first, second, *_ = found
        assert found.choose() is first and found.choose(second.name) is second
        with pytest.raises(
            ValueError, match=f"{found.name} has no picture 'lena'; there are {first.name}, {second.name}"
        ):
            found.choose("lena")

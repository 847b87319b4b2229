"""Benchmarks fetched by hand: small files of the right format are read, wrong ones are named, and submissions are in order."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import loadmat, savemat

from invdenoise import paths
from invdenoise.data import benchmarks, fetch
from invdenoise.data.fetch import CorruptFile, DataUnavailable

ENTRY = {
    "about": "Fill in their form, then unpack the files here.", "num_files": 0, "channels": None, "holds": "files", "addresses": {},
    "terms": "", "terms_short": "free", "upstream": ["https://example.org/form"], "cite": [],
}  # fmt: skip


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """The folder of the datasets "phone" and "camera", of which no file is registered, and "whole" for training."""
    (tmp_path / "registry").mkdir()
    sources = {}
    for name in ("phone", "camera", "whole"):
        (tmp_path / "registry" / f"{name}.csv").write_text("file,bytes,sha256,source_repo,source_path,conversion\n")
        role = "train" if name == "whole" else "test"
        sources[name] = {**ENTRY, "title": name.title(), "files": f"registry/{name}.csv", "role": role}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    monkeypatch.setattr(paths, "SOURCES", tmp_path / "sources.yaml")
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    yield tmp_path / "cache"
    fetch._datasets.cache_clear()
    fetch._registry.cache_clear()


def save_v73(path, **variables):
    """A MATLAB 7.3 file as far as readers look at it: HDF5 after a user block, the axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            file[name] = np.ascontiguousarray(value.T)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def save_blocks(folder, kind, shape=(2, 3, 20, 24, 3), v73=False):
    """Noisy and clean blocks in a folder, as "Validation" or, noisy only, "Benchmark"."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clean = rng.integers(60, 200, shape, np.uint8)
    noisy = np.clip(clean + rng.normal(0, 15, shape), 0, 255).astype(np.uint8)
    for name, blocks in ((f"{kind}NoisyBlocksSrgb", noisy), (f"{kind}GtBlocksSrgb", clean)):
        if kind == "Validation" or "Noisy" in name:
            (save_v73 if v73 else lambda path, **v: savemat(path, v))(folder / f"{name}.mat", **{name: blocks})
    return noisy, clean


def save_boxes(folder, num_boxes=20, shape=(40, 50, 3)):
    """Two pictures with boxes of 12x14 pixels in a folder; returns what lies in the boxes."""
    (folder / "images_srgb").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    found = []
    with h5py.File(folder / "info.mat", "w", userblock_size=512) as file:
        references = np.empty((1, 2), h5py.ref_dtype)
        for number in range(2):
            corner = np.stack([rng.integers(0, 40 - 12 + 1, num_boxes), rng.integers(0, 50 - 14 + 1, num_boxes)])
            corner[:, 0] = 40 - 12, 50 - 14  # the last pixels belong to a box
            boxes = np.concatenate([corner + 1, corner + [[12], [14]]]).T.astype(float)  # from 1, ends included
            file[f"#refs#/{number}"] = boxes.T  # MATLAB's axes in reverse
            references[0, number] = file[f"#refs#/{number}"].ref
            picture = rng.random(shape)
            save_v73(folder / "images_srgb" / f"{number + 1:04d}.mat", InoisySRGB=picture)
            found.append([picture[y : y + 12, x : x + 14].astype(np.float32) for y, x in corner.T.tolist()])
        file["info/boundingboxes"] = references
    return found


def save_whole(folder, side=40):
    """Four pairs of whole pictures, of two scenes, in a folder per scene instance."""
    rng = np.random.default_rng(2)
    for instance, scene in (("0001", "001"), ("0002", "001"), ("0003", "007")):
        place = folder / "Data" / f"{instance}_{scene}_S6_00100_00060_3200_L"
        place.mkdir(parents=True)
        for number in ("010", "011")[: 2 if instance == "0001" else 1]:
            clean = rng.integers(0, 206, (side, side + 8, 3), np.uint8)
            for role, pixels in (("NOISY", clean + np.uint8(50)), ("GT", clean)):
                Image.fromarray(pixels).save(place / f"{instance}_{role}_SRGB_{number}.PNG")


# -- where they are ---------------------------------------------------------------------------------------------------


def test_a_missing_benchmark_says_how_to_get_it(by_hand, tmp_path, monkeypatch):
    with pytest.raises(DataUnavailable) as error:
        benchmarks.folder_of("phone")
    for part in (str(by_hand / "phone"), "Fill in their form, then unpack the files here.", "https://example.org/form"):
        assert part in str(error.value)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "phone").mkdir(parents=True)
    with pytest.raises(DataUnavailable, match="mirror/phone, and cannot be fetched"):  # it is empty
        benchmarks.folder_of("phone")
    save_blocks(tmp_path / "mirror" / "phone", "Validation")
    assert benchmarks.folder_of("phone") == tmp_path / "mirror" / "phone"
    save_blocks(by_hand / "phone", "Validation")
    assert benchmarks.folder_of("phone") == by_hand / "phone"  # the cache comes first
    with pytest.raises(ValueError, match="no dataset 'fone'; did you mean phone"):
        benchmarks.folder_of("fone")


def test_registered_sets_are_not_fetched_by_hand():
    # Unlike the others, these tests see the project's own registry.
    assert not benchmarks.is_by_hand("cc15") and not benchmarks.is_by_hand("embedded-pairs")
    with pytest.raises(ValueError, match="cc15 is fetched by `make data`"):
        benchmarks.folder_of("cc15")
    assert benchmarks.load_real_pairs("embedded-pairs", limit=2).name == "embedded-pairs"


def test_a_stand_in_is_marked_and_can_be_refused(by_hand):
    with pytest.warns(UserWarning, match="'embedded-pairs' stand in for phone"):
        pairs = benchmarks.load_real_pairs("phone", limit=1)
    assert (pairs.name, pairs.requested, pairs.is_stand_in, len(pairs)) == ("embedded-pairs", "phone", True, 1)
    with pytest.warns(UserWarning, match="embedded-pairs-train"):
        assert benchmarks.load_real_pairs("whole", limit=1).name == "embedded-pairs-train"
    with pytest.raises(DataUnavailable):
        benchmarks.load_real_pairs("phone", stand_in=False)
    with pytest.raises(ValueError, match="limit is 0"):
        benchmarks.load_real_pairs("phone", limit=0)


def test_what_is_at_hand_changes_with_the_files(by_hand):
    found = [benchmarks.at_hand("phone")]
    save_blocks(by_hand / "phone", "Validation")
    found += [benchmarks.at_hand("phone"), benchmarks.at_hand("phone")]
    save_blocks(by_hand / "phone", "Validation", (2, 3, 16, 16, 3))
    found.append(benchmarks.at_hand("phone"))
    assert found[0] == "not at hand" and found[1] == found[2] != found[3] and found[1].startswith("2 files by hand, ")


def test_half_a_benchmark_is_an_error_that_no_stand_in_hides(by_hand):
    save_blocks(by_hand / "phone", "Validation")
    (by_hand / "phone" / "ValidationGtBlocksSrgb.mat").unlink()
    with pytest.raises(CorruptFile, match="has ValidationNoisyBlocksSrgb.mat but not ValidationGtBlocksSrgb.mat"):
        benchmarks.load_real_pairs("phone")
    save_boxes(by_hand / "camera")
    (by_hand / "camera" / "info.mat").unlink()
    with pytest.raises(CorruptFile, match="has images_srgb but not info.mat"):
        benchmarks.layout_of(by_hand / "camera")
    (by_hand / "whole").mkdir()
    (by_hand / "whole" / "SIDD.zip").write_bytes(b"PK")
    with pytest.raises(CorruptFile, match="has no benchmark in it.*Unpack what was downloaded"):
        benchmarks.load_real_pairs("whole")


# -- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v73", [False, True])
def test_blocks_become_pairs_whose_scene_is_the_picture(by_hand, v73):
    noisy, clean = save_blocks(by_hand / "phone", "Validation", v73=v73)
    assert benchmarks.layout_of(by_hand / "phone") == "pairs of blocks"
    pairs = benchmarks.load_real_pairs("phone")
    assert [pair.name for pair in pairs] == ["00-00", "00-01", "00-02", "01-00", "01-01", "01-02"]
    assert pairs.scenes == ("picture 00", "picture 01") and not pairs.is_stand_in
    for pair, place in zip(pairs, np.ndindex(2, 3), strict=True):
        np.testing.assert_array_equal(pair.noisy.pixels, noisy[place])
        np.testing.assert_array_equal(pair.clean.pixels, clean[place])
    assert [pair.name for pair in benchmarks.load_real_pairs("phone", limit=4)] == ["00-00", "00-01", "00-02", "01-00"]
    first = pairs.sha256
    save_blocks(by_hand / "phone", "Validation", (2, 3, 20, 20, 3), v73)
    assert benchmarks.load_real_pairs("phone").sha256 != first


def test_wrong_files_are_named(by_hand):
    folder = by_hand / "phone"
    save_blocks(folder, "Validation")
    noisy = folder / "ValidationNoisyBlocksSrgb.mat"
    for content, message in ((b"<html>log in</html>" * 20, "cannot be read as a MATLAB file"), (b"", "cannot be read")):
        noisy.write_bytes(content)
        with pytest.raises(CorruptFile, match=rf"{noisy} {message}.*download it again"):
            benchmarks.load_real_pairs("phone")
    savemat(noisy, {"ValidationNoisyBlocksRaw": np.zeros((2, 2))})
    with pytest.raises(CorruptFile, match="has no variable ValidationNoisyBlocksSrgb; it has ValidationNoisyBlocksRaw"):
        benchmarks.load_real_pairs("phone")
    savemat(noisy, {"ValidationNoisyBlocksSrgb": np.zeros((2, 3, 20, 24, 3))})
    with pytest.raises(CorruptFile, match=r"is float64 of shape \(2, 3, 20, 24, 3\); expected uint8"):
        benchmarks.load_real_pairs("phone")
    savemat(noisy, {"ValidationNoisyBlocksSrgb": np.zeros((2, 2, 20, 24, 3), np.uint8)})
    with pytest.raises(CorruptFile, match=r"blocks \(2, 2, 20, 24, 3\), .* \(2, 3, 20, 24, 3\); download both"):
        benchmarks.load_real_pairs("phone")


def test_submitted_blocks_are_as_the_makers_read_them(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9, 3), np.uint8)
    path = benchmarks.write_blocks(tmp_path / "new", blocks, 0.25)
    assert path == tmp_path / "new" / "SubmitSrgb.mat"
    found = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    assert set(found) == {"DenoisedBlocksSrgb", "TimeMPSrgb"}
    np.testing.assert_array_equal(found["DenoisedBlocksSrgb"], blocks)
    assert found["DenoisedBlocksSrgb"].dtype == np.uint8 and found["TimeMPSrgb"].item() == 0.25
    assert benchmarks.write_blocks(tmp_path / "mine.mat", blocks, 0) == tmp_path / "mine.mat"
    for wrong in (blocks / 255, blocks[0]):
        with pytest.raises(ValueError, match=r"expected uint8 \(pictures, blocks, H, W, 3\): round to 8 bits"):
            benchmarks.write_blocks(tmp_path / "wrong.mat", wrong, 0)
    assert not (tmp_path / "wrong.mat").exists()


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_boxes_are_counted_from_one_with_both_ends(by_hand):
    expected = save_boxes(by_hand / "camera")
    assert benchmarks.layout_of(by_hand / "camera") == "boxes"
    boxes = benchmarks.read_boxes(by_hand / "camera")
    assert [box.shape for box in boxes] == [(20, 4)] * 2 and boxes[0][0].tolist() == [28, 36, 40, 50]
    found = list(benchmarks.iterate_boxes(by_hand / "camera"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert {crop.dtype.name for crop in one} == {"float32"}


def test_wrong_pictures_and_boxes_are_named(by_hand):
    folder = by_hand / "camera"
    save_boxes(folder)
    second = folder / "images_srgb" / "0002.mat"
    save_v73(second, InoisySRGB=np.zeros((39, 50, 3)))
    with pytest.raises(CorruptFile, match="0002.mat is 39x50, smaller than its boxes"):
        list(benchmarks.iterate_boxes(folder))
    save_v73(second, InoisySRGB=np.zeros((40, 50), np.float32))
    with pytest.raises(CorruptFile, match=r"InoisySRGB is float32 of shape \(40, 50\); expected floats \(H, W, 3\)"):
        list(benchmarks.iterate_boxes(folder))
    second.unlink()
    with pytest.raises(FileNotFoundError, match="no file .*0002.mat"):
        list(benchmarks.iterate_boxes(folder))
    with h5py.File(folder / "info.mat", "w") as file:
        file["info/other"] = 1
    with pytest.raises(CorruptFile, match=r"info.mat has no info.boundingboxes"):
        benchmarks.read_boxes(folder)
    (folder / "info.mat").write_bytes(b"nothing")
    with pytest.raises(CorruptFile, match=r"info.mat has no info.boundingboxes"):
        benchmarks.read_boxes(folder)


def test_submitted_boxes_are_as_the_makers_read_them(tmp_path):
    rng = np.random.default_rng(0)
    boxes = [rng.random((5 + place, 6, 3)) for place in range(20)]  # of different sizes, in float64
    path = benchmarks.write_boxes(tmp_path / "bundled", 7, boxes)
    found = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    assert path.name == "0007.mat" and set(found) == {"Idenoised", "israw", "eval_version"}
    assert found["Idenoised"].shape == (1, 20) and found["Idenoised"].dtype == object  # a cell array
    for cell, box in zip(found["Idenoised"][0], boxes, strict=True):
        np.testing.assert_array_equal(cell, box.astype(np.float32))
        assert cell.dtype == np.float32
    assert not found["israw"].item() and found["eval_version"].tolist() == ["1.0"]
    with pytest.raises(ValueError, match="picture 7 has 19 boxes; expected 20"):
        benchmarks.write_boxes(tmp_path, 7, boxes[1:])
    for wrong, message in (
        (boxes[0] + 1, r"values outside \[0, 1\]"),
        (boxes[0] * np.nan, "outside"),
        (np.zeros((5, 6, 3), np.uint8), "box 1 of picture 7 is uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            benchmarks.write_boxes(tmp_path, 7, [wrong, *boxes[1:]])


# -- whole pictures ---------------------------------------------------------------------------------------------------


def test_whole_pictures_are_cut_alike_at_places_of_their_own(by_hand):
    save_whole(by_hand / "whole")
    folder = benchmarks.folder_of("whole")
    assert benchmarks.layout_of(folder) == "pictures"
    pairs = benchmarks.crop_pairs(folder, "whole", crops=3, side=16)
    stems = ["0001_010", "0001_011", "0002_010", "0003_010"]
    assert [pair.name for pair in pairs] == [f"{stem}-{number}" for stem in stems for number in range(3)]
    assert (
        pairs.scenes == ("scene 001", "scene 007") and len([pair for pair in pairs if pair.scene == "scene 001"]) == 9
    )
    for pair in pairs:
        assert pair.clean.pixels.shape == (16, 16, 3)
        np.testing.assert_array_equal(pair.noisy.pixels, pair.clean.pixels + np.uint8(50))
    assert len({pair.clean.pixels.tobytes() for pair in pairs}) == 12
    few = benchmarks.crop_pairs(folder, "whole", limit=1, crops=2, side=16)
    assert [pair.clean.pixels.tobytes() for pair in few] == [pair.clean.pixels.tobytes() for pair in pairs][:2]
    other = benchmarks.crop_pairs(folder, "whole", limit=1, crops=2, side=16, seed=1)
    assert other.sha256 != few.sha256 and other.pairs[0].clean.pixels.tobytes() != few.pairs[0].clean.pixels.tobytes()


def test_whole_pictures_that_do_not_belong_together_are_named(by_hand):
    save_whole(by_hand / "whole")
    folder = by_hand / "whole"
    with pytest.raises(CorruptFile, match="0001_NOISY_SRGB_010.PNG is 40x48; expected 256x256 or more"):
        benchmarks.load_real_pairs("whole")
    place = next(iter(folder.rglob("0002_GT_SRGB_010.PNG")))
    place.write_bytes(place.read_bytes()[:200])
    with pytest.raises(CorruptFile, match="0002_GT_SRGB_010.PNG .*download it again"):
        benchmarks.crop_pairs(folder, "whole", side=16)
    place.unlink()
    with pytest.raises(CorruptFile, match="no clean picture 0002_GT_SRGB_010.PNG beside it"):
        benchmarks.crop_pairs(folder, "whole", side=16)
    shutil.copy(place.with_name("0002_NOISY_SRGB_010.PNG"), place)
    place.parent.rename(place.parent.with_name("crop"))
    with pytest.raises(CorruptFile, match="crop does not tell the scene"):
        benchmarks.crop_pairs(folder, "whole", side=16)

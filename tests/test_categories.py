"""Pictures fetched by hand: small folders in the makers' layout give the right parts, lazily, and what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from invdenoise import paths
from invdenoise.data import batches, benchmarks, categories, fetch, pictures
from invdenoise.data.fetch import CorruptFile, DataUnavailable

# name -> layout, role and number of pictures of the small sets below
SETS = {
    "faces": ("celeba", {"train": 3, "test": 2}),
    "plants": ("flowers102", {"train": 4, "test": 3}),
    "birds": ("cub200", {"train": 3, "test": 2}),
    "ground": ("rice", {"train": 10, "test": 2}),
}


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """The cache, for small sets that are registered as those of the project are."""
    (tmp_path / "registry").mkdir()
    sources = {}
    for name, (layout, counts) in SETS.items():
        for role, count in counts.items():
            file = f"registry/{name}-{role}.csv"
            (tmp_path / file).write_text("file,bytes,sha256,source_repo,source_path,conversion\n")
            sources[f"{name}-{role}"] = {
                "title": name, "about": f"Unpack them into {name}.", "files": file, "num_files": 0, "channels": 3, "role": role,
                "by_hand": {"folder": name, "layout": layout, "num_pictures": count}, "addresses": {}, "terms": "",
                "terms_short": "free", "upstream": ["https://example.org/form"], "cite": [],
            }  # fmt: skip
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    monkeypatch.setattr(paths, "SOURCES", tmp_path / "sources.yaml")
    monkeypatch.setenv("INVDENOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    yield tmp_path / "cache"
    fetch._datasets.cache_clear()
    fetch._registry.cache_clear()


def save(file, number: int, size=(12, 10)) -> np.ndarray:
    """A picture whose pixels depend on the number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def save_faces(folder):
    for number in range(1, 7):
        save(folder / "img_align_celeba" / f"{number:06d}.jpg", number)
    parts = (0, 1, 0, 2, 0, 1)
    lines = [f"{number:06d}.jpg {part}" for number, part in enumerate(parts, start=1)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")


def save_plants(folder):
    for number in range(1, 8):
        save(folder / "jpg" / f"image_{number:05d}.jpg", number)
    lists = {"trnid": [[6]], "valid": [[2, 4]], "tstid": [[7, 1, 3, 5]]}
    savemat(folder / "setid.mat", {name: np.array(numbers, np.uint16) for name, numbers in lists.items()})


def save_birds(folder):
    folder = folder / "CUB_200_2011"
    names = [f"00{1 + k // 3}.Species/Species_{k}.jpg" for k in range(5)]
    for number, name in enumerate(names):
        save(folder / "images" / name, number)
    (folder / "images.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(names, start=1)))
    (folder / "train_test_split.txt").write_text("1 0\n2 1\n3 1\n4 0\n5 1\n")


def save_ground(folder, numbers=(0, 1, 2, 3, 9, 10, 11, 100, 20, 30, 4, 5)) -> dict[str, np.ndarray]:
    return {str(number): save(folder / "RICE1" / "label" / f"{number}.png", number) for number in numbers}


def names(dataset: str) -> list[str]:
    return [picture.name for picture in pictures.load_pictures(dataset, stand_in=False)]


# --- Which pictures


def test_celeba_trains_on_part_0_and_tests_on_part_1(by_hand):
    save_faces(by_hand / "faces")
    assert names("faces-train") == ["000001", "000003", "000005"] and names("faces-test") == ["000002", "000006"]


def test_flowers_trains_on_the_official_test_list(by_hand):
    save_plants(by_hand / "plants")
    assert names("plants-train") == ["image_00007", "image_00001", "image_00003", "image_00005"]
    assert names("plants-test") == ["image_00006", "image_00002", "image_00004"]


def test_cub_reads_both_lists_in_the_folder_that_its_archive_makes(by_hand):
    save_birds(by_hand / "birds")
    assert names("birds-train") == ["Species_1", "Species_2", "Species_4"] and names("birds-test") == [
        "Species_0",
        "Species_3",
    ]


def test_rice_is_split_by_number(by_hand):
    found = save_ground(by_hand / "ground")
    assert names("ground-train") == ["0", "1", "2", "3", "4", "5", "9", "10", "11", "20"] and names("ground-test") == [
        "30",
        "100",
    ]
    for picture in pictures.load_pictures("ground-test"):
        assert np.array_equal(picture.pixels, found[picture.name])


def test_the_projects_own_sets_have_the_numbers_of_the_papers():
    counts = {name: pictures.num_pictures(name) for name in fetch.dataset_ids() if fetch.describe(name).by_hand}
    assert counts == {
        "celeba-train": 162770, "celeba-test": 19867, "flowers102-train": 6149, "flowers102-test": 2040,
        "cub200-train": 5994, "cub200-test": 5794, "rice1-train": 417, "rice1-test": 83, "rice2-train": 375, "rice2-test": 75,
    }  # fmt: skip
    for name in counts:
        described = fetch.describe(name)
        assert (
            benchmarks.is_by_hand(name)
            and described.channels == 3
            and name == f"{described.by_hand.folder}-{described.role}"
        )
        assert f"{described.by_hand.folder}/" in described.about  # where to put the files
    assert set(fetch.LAYOUTS) == set(categories.NEEDED)


# --- Lazily


def test_a_picture_is_read_when_it_is_used(by_hand):
    found = save_ground(by_hand / "ground")
    ground = pictures.load_pictures("ground-train", limit=3)
    assert len(ground) == 3 and all(isinstance(picture, pictures.LazyPicture) for picture in ground)
    first = ground.pictures[0]
    (by_hand / "ground" / "RICE1" / "label" / "0.png").write_bytes(b"a web page")
    with pytest.raises(CorruptFile, match=r"0\.png .*unpack or download it again"):
        first.tensor()
    with pytest.raises(CorruptFile, match=r"0\.png"):
        _ = first.shape
    second = ground.pictures[1]
    assert second.shape == (12, 10, 3) and second.tensor().shape == (1, 3, 12, 10)
    assert np.array_equal(second.pixels, found["1"])


def test_gray_files_become_colour(by_hand):
    save_ground(by_hand / "ground")
    Image.fromarray(np.full((12, 10), 7, np.uint8)).save(by_hand / "ground" / "RICE1" / "label" / "0.png")
    first, *_ = pictures.load_pictures("ground-train", limit=1)
    assert first.shape == first.pixels.shape == (12, 10, 3)


def test_the_hash_tells_parts_limits_and_changed_files_apart(by_hand):
    save_ground(by_hand / "ground")

    def hashes() -> list[str]:
        wanted = (("ground-train", None), ("ground-train", 2), ("ground-test", None))
        return [pictures.load_pictures(name, limit=limit).sha256 for name, limit in wanted]

    before = hashes()
    assert len(set(before)) == 3 and hashes() == before
    save(by_hand / "ground" / "RICE1" / "label" / "100.png", 5)
    assert [one == other for one, other in zip(hashes(), before, strict=True)] == [True, True, False]


@pytest.mark.parametrize("options", [{}, {"crop": "centre"}, {"augment": "flip", "sampling": "grid"}])
def test_batches_are_the_same_whether_pictures_are_kept_or_read_for_each(by_hand, monkeypatch, options):
    save_ground(by_hand / "ground")
    save(by_hand / "ground" / "RICE1" / "label" / "3.png", 3, size=(9, 30))  # sizes differ
    options = {"sigma": 25, "patch_size": 8, "batch_size": 6, "validation": 2, **options}
    kept = batches.WhiteNoise.load("ground-train", **options)
    monkeypatch.setattr(batches, "KEPT_BYTES", 10 * 3 * 8)
    read = batches.WhiteNoise.load("ground-train", **options)
    assert (kept.held_out.sha256, len(kept), kept.sha256) == (read.held_out.sha256, len(read), read.sha256)
    for step in range(4):
        one, other = kept.batch(step), read.batch(step)
        assert all(torch.equal(one[key], other[key]) for key in one)
    (by_hand / "ground" / "RICE1" / "label" / "1.png").unlink()
    kept.batch(0)
    with pytest.raises(CorruptFile, match=r"1\.png"):  # which shows that it does read them
        for step in range(20):
            read.batch(step)


# --- What is missing or wrong


def test_what_is_not_there_is_told_and_may_be_stood_in_for(by_hand, tmp_path, monkeypatch):
    assert fetch.at_hand("faces-test") == "not at hand"
    with pytest.raises(DataUnavailable) as error:
        pictures.load_pictures("faces-test", stand_in=False)
    for part in (str(by_hand / "faces"), "Unpack them into faces.", "https://example.org/form"):
        assert part in str(error.value)
    with pytest.warns(UserWarning, match="'embedded-colour-train' stand in for faces-train"):
        assert pictures.load_pictures("faces-train").name == "embedded-colour-train"
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    save_faces(tmp_path / "mirror" / "faces")
    assert names("faces-test") == ["000002", "000006"] and pictures.num_pictures("faces-test") == 2
    assert fetch.at_hand("faces-test") == fetch.at_hand("faces-train") == benchmarks.at_hand("faces-train")
    assert fetch.at_hand("faces-test").startswith("7 files by hand, ")


@pytest.mark.parametrize("use", [benchmarks.load_real_pairs, pictures.load_pairs])
def test_they_are_no_pairs(by_hand, use):
    save_faces(by_hand / "faces")
    with pytest.raises(
        ValueError, match=r"faces-test holds clean pictures, not pairs .* use load_pictures\('faces-test'\)"
    ):
        use("faces-test")


def spoil_list(by_hand):
    (by_hand / "faces" / "list_eval_partition.txt").write_text("000001.jpg 0\n<html>\n")


def remove_list(by_hand):
    (by_hand / "faces" / "list_eval_partition.txt").unlink()


def remove_face(by_hand):
    (by_hand / "faces" / "img_align_celeba" / "000003.jpg").unlink()


def shorten_list(by_hand):
    (by_hand / "faces" / "list_eval_partition.txt").write_text("000001.jpg 0\n000003.jpg 0\n000002.jpg 1\n")


def part_of_pairs(by_hand):
    (by_hand / "birds" / "CUB_200_2011" / "train_test_split.txt").write_text("1 0\n2 1\n3 1\n4 0\n")


def spoil_setid(by_hand):
    (by_hand / "plants" / "setid.mat").write_bytes(b"<html>")


def other_setid(by_hand):
    savemat(by_hand / "plants" / "setid.mat", {"trnid": np.array([[1]])})


def odd_name(by_hand):
    save(by_hand / "ground" / "RICE1" / "label" / "12 (1).png", 0)


@pytest.mark.parametrize(
    ("spoil", "dataset", "message"),
    [
        (
            spoil_list,
            "faces-train",
            r"list_eval_partition\.txt, line 2 is '<html>'; expected two columns with 0 or 1 or 2",
        ),
        (
            remove_list,
            "faces-train",
            r"faces has no list_eval_partition\.txt; expected list_eval_partition\.txt, img_align_celeba",
        ),
        (remove_face, "faces-train", r"faces-train: 1 of 3 pictures are missing, the first is .*000003\.jpg"),
        (shorten_list, "faces-train", "has 2 pictures of faces-train; expected 3: unpack it again"),
        (part_of_pairs, "birds-train", "differ at picture 5; download both again"),
        (spoil_setid, "plants-train", r"setid\.mat has no lists trnid, valid and tstid"),
        (other_setid, "plants-train", r"setid\.mat has no lists trnid, valid and tstid .*tstid"),
        (odd_name, "ground-train", r"12 \(1\)\.png is not named by a number"),
    ],
)
def test_a_damaged_folder_is_named_and_nothing_stands_in(by_hand, spoil, dataset, message):
    for save_all, name in (
        (save_faces, "faces"),
        (save_plants, "plants"),
        (save_birds, "birds"),
        (save_ground, "ground"),
    ):
        save_all(by_hand / name)
        assert names(f"{name}-train")
    spoil(by_hand)
    with pytest.raises(CorruptFile, match=message):
        pictures.load_pictures(dataset)


def test_more_pictures_than_the_paper_has_are_told(by_hand):
    save_ground(by_hand / "ground", range(18))
    with pytest.warns(UserWarning, match="ground-test has 3 pictures .* more than the 2 of the paper") as caught:
        assert [picture.name for picture in pictures.load_pictures("ground-test")] == ["15", "16", "17"]
    assert caught[0].filename == __file__

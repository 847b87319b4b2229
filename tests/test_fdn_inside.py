"""The two notebooks that open FDN: what each part of the latent decodes to, and denoised pictures beside those of rivals."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
import torch.nn.functional as F

from invdenoise import methods, papers, paths
from invdenoise.data.pictures import load_pictures
from invdenoise.layers.coupling import AffineCoupling
from invdenoise.models.base import Denoiser
from invdenoise.report import tables
from invdenoise.report.claims import Decision
from invdenoise.tasks.awgn import Denoise
from invdenoise.tasks.metrics import psnr

FOLDER = paths.NOTEBOOKS / "fdn"
NOTEBOOKS = ("latent_space", "fig6_10_visual")
NETWORK = "fdn-ablation-blocks2-steps1-seed0"  # the smallest with two flow blocks
LATENT = {"network": NETWORK, "dataset": "embedded-colour", "limit": 3, "part": 32, "few": 2}
VISUAL = {
    "sets": ["embedded-colour"], "limit": 5, "part": 32, "crop": 64, "aerial_set": "embedded-colour", "real_set": "embedded-pairs",
}  # fmt: skip


def run(name: str, **parameters) -> dict:
    """What the names of a notebook stand for after all its cells were run."""
    names: dict = {}
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), names)
            if cell["id"] == "parameters":
                assert parameters.keys() <= names.keys()
                names.update(parameters)
    return names


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder of results, without released weights. Figures are drawn without a screen."""
    folder = tmp_path_factory.mktemp("inside")
    before = matplotlib.get_backend()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("INVDENOISE_RESULTS", str(folder / "results"))
        patch.setattr(paths, "RELEASED_WEIGHTS", folder / "weights")
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        matplotlib.use("agg")
        yield folder / "results"
    plt.close("all")
    matplotlib.use(before)
    torch.set_grad_enabled(True)  # a notebook turns it off for its kernel


def random_network():
    """A network whose couplings do something, and nothing useful."""
    torch.manual_seed(1)
    network = papers.network(NETWORK).build().eval()
    for layer in network.flow:
        if isinstance(layer, AffineCoupling):
            for subnet in (layer.phi2, layer.phi3, layer.phi4):
                torch.nn.init.normal_(subnet.last.weight, std=0.1)
    network.initialise(torch.rand(4, 3, 32, 32))
    network.name, network.card = NETWORK, {"budget": "laptop", "sha256": "0" * 64}
    return network


@pytest.fixture(scope="module")
def latent(place):
    """Names of the notebook on the latent, with weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "load_network", lambda name, budget: random_network())
        return run("latent_space", **LATENT)


class Named(Denoiser):
    """A denoiser that is a function of the noisy picture."""

    def __init__(self, name, function):
        self.name, self.function, self.card = name, function, {"budget": "laptop", "sha256": ""}

    def estimate(self, noisy, sigma, **options):
        return self.function(noisy)


def blurred(noisy):
    return F.avg_pool2d(F.pad(noisy, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def visual_with(patch, **functions):
    """Names of the notebook of pictures, where these methods are to be had and no other."""

    def load(name, *others, **options):
        if name in functions:
            return Named(name, functions[name])
        raise FileNotFoundError(name)

    patch.setattr(methods, "load_network", load)
    patch.setattr(methods, "load_denoiser", load)
    return run("fig6_10_visual", **VISUAL)


@pytest.fixture(scope="module")
def visual(place):
    """FDN blurs, and BM3D does nothing."""
    with pytest.MonkeyPatch.context() as patch:
        return visual_with(patch, **{"fdn-faces-s50": blurred, "bm3d": lambda noisy: noisy})


# --- Form


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_have_the_form_of_the_others(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    parameters = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1 and "budget = " in parameters[0].source
    assert cells[0].source.startswith("# FDN") and "Exercises" in cells[-1].source
    assert len(re.findall(r"^\d\. \*\*", cells[-1].source, re.MULTILINE)) == 2


def test_no_test_face_is_drawn(latent, visual):
    """The faces of the test set are of people who did not agree to be shown."""
    astronaut, _, cat = load_pictures("embedded-colour").pictures[:3]
    assert [latent["drawn_from"][place].name for place in (0, 2)] == [astronaut.name, cat.name]
    drawn = " ".join(
        re.findall(r"(?:draw|imshow|panel)\((.*)", (FOLDER / "latent_space.ipynb").read_text(encoding="utf-8"))
    )
    assert drawn and not re.search(r"\b(clean|noisy|noise|decoded)\b", drawn)
    assert visual["shown"]["faces"]["clean"].shape == (1, 3, 96, 96)  # the reduced portrait
    assert visual["shown"]["faces"]["name"] not in [case["name"] for case in visual["pictures"]["faces"]["cases"]]


# --- The latent


def test_the_whole_latent_returns_the_noisy_picture(latent):
    for name, network in latent["networks"].items():
        own = latent["decoded"][name]
        assert torch.allclose(own["both"], latent["noisy"], atol=1e-4), name
        assert torch.equal(sum(own["latents"]), network.encode(latent["noisy"]))
        assert not (own["latents"][0] * own["latents"][1]).any()
    assert (latent["trips"].query("precision == 'float32'")["error"] < 1e-3).all()


def test_the_parts_add_up_where_the_transform_is_linear_and_only_there(latent):
    assert latent["decoded"]["untrained"]["bend"] < 1e-2 < 0.1 < latent["decoded"]["trained"]["bend"]
    assert latent["apart"]["untrained"] < 1e-2 < 0.1 < latent["apart"]["trained"]


def test_noise_is_that_of_the_tables(latent):
    cases = Denoise().cases(load_pictures("embedded-colour", limit=3), seed=0, sigma=50)
    for place, case in enumerate(cases):
        middle = latent["central"](case.given["noisy"], 32)
        assert torch.allclose(middle[0], latent["noisy"][place], atol=1e-6)
    assert torch.corrcoef(torch.stack([latent["noise"].flatten(), latent["noise_again"].flatten()]))[0, 1].abs() < 0.05


def test_a_decoding_is_fitted_by_picture_and_noise(latent):
    clean, noise = latent["clean"], latent["noise"]
    other = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(
        latent["shares"](2 * clean - 3 * noise + 7, clean, noise), torch.tensor([4.0, 9.0, 0.0]).double()
    )
    assert (latent["shares"](other, clean, noise)[:, 2] > 0.95).all()
    assert torch.allclose(latent["correlation"](5 - noise, noise), torch.tensor(-1.0).double())


def test_mixed_latents(latent):
    """With its own z_N a picture has its own noise. All dimensions are in one of the two parts."""
    for name, network in latent["networks"].items():
        own = latent["decoded"][name]
        again = network.decode(own["latents"][0] + latent["halves"](network, latent["noisy"])[1])
        assert torch.allclose(
            latent["correlation"](again - latent["clean"], latent["noise"]), torch.tensor(1.0).double(), atol=1e-4
        )
        assert all((0 < values).all() and (values < 1.5).all() for values in own["varies"])
    row = latent["exchange"].loc["untrained"]  # a rotation: three quarters of the noise go with z_C
    assert row["e with n of z_C"] > row["e with n of z_N"]


def test_numbers_agree_with_the_library(latent):
    network = latent["networks"]["trained"]
    denoised = network(latent["noisy"])
    assert torch.allclose(denoised, latent["decoded"]["trained"]["z_C"], atol=1e-5)
    expected = [
        psnr(x, image) - psnr(x, y) for x, image, y in zip(latent["clean"], denoised, latent["noisy"], strict=True)
    ]
    assert latent["gain"]["trained"].tolist() == pytest.approx(expected, abs=1e-3)
    nats = -network.log_likelihood(latent["noisy"]) / latent["noisy"][0].numel()
    assert torch.allclose(latent["measured"]["trained"], nats / math.log(2) + 8, atol=1e-3)
    untrained = latent["normal"].loc["untrained"]  # actnorm is set from these very pictures
    assert untrained["largest mean"].max() < 1e-3 and untrained["kurtosis"].abs().max() < 2
    true = latent["generated"].loc[("–", "true noise")]
    assert true["strength (grey levels)"] == pytest.approx(50, rel=0.02) and true[
        "correlation with n"
    ] == pytest.approx(1)


def test_verdicts_follow_from_the_bounds(latent):
    judge = latent["judge"]
    assert judge([1.0, 1.1, 0.9], least=0)[0] == Decision.HOLDS
    assert judge([1.0, 1.1, 0.9], most=0)[0] == Decision.FAILS
    assert judge([1.0, -1.0, 0.5], least=0)[0] == Decision.UNDECIDED
    assert judge([1.0], least=0)[0] == Decision.UNDECIDED  # one picture has no interval
    assert judge(0.05, most=0.1) == (Decision.HOLDS, "0.050") and judge(0.2, most=0.1)[0] == Decision.FAILS
    verdicts = latent["verdicts"].set_index("statement")["verdict"].str.strip("*")
    assert verdicts.index.is_unique and Decision.NOT_RUN not in set(verdicts)
    assert verdicts["There and back is exact to rounding in float32."] == Decision.HOLDS
    assert verdicts["It is above the bound, as it must be."] == Decision.HOLDS
    assert "nothing to disentangle" in latent["insight"]  # a random network does not denoise


def test_lesions(latent):
    losses, lesions = latent["losses"], latent["lesions"]
    assert (losses.loc[("whole network", "z_N zero")] == 0).all()
    assert latent["lesion_scores"](latent["networks"]["trained"]) == lesions.loc[("whole network", "z_N zero")].tolist()
    noisy, clean = latent["noisy"][:2].clamp(0, 1), latent["clean"][:2]
    true = lesions.loc[("mask", "z_N true: the noisy picture")]
    assert true.tolist() == pytest.approx([psnr(x, y) for x, y in zip(clean, noisy, strict=True)], abs=1e-2)
    for block in (1, 2):  # of one step each
        step = lesions.loc[(f"steps of block {block}", "without coupling 1")]
        assert step.tolist() == lesions.loc[("couplings", f"without all of block {block}")].tolist()
    assert Counter(part for part, _ in losses.index) == {
        "whole network": 1, "subnets": 6, "couplings": 3, "steps of block 1": 1, "steps of block 2": 1, "mask": 3,
    }  # fmt: skip
    assert (losses.iloc[1:].abs().sum(axis=1) > 0).all()  # every lesion changes something
    subnet = next(layer for layer in latent["networks"]["trained"].flow if isinstance(layer, AffineCoupling)).phi3
    with latent["without"]([subnet]):
        assert not subnet(torch.ones(1, 3, 4, 4)).any()
    assert subnet(torch.ones(1, 3, 4, 4)).any()


def test_without_weights_the_latent_notebook_says_so(place):
    names = run("latent_space", **LATENT)
    text = (place / "tables" / "fdn-latent.md").read_text(encoding="utf-8")
    assert set(names["verdicts"]["verdict"]) == {"**not run**"} and list(names["networks"]) == ["untrained"]
    assert "**not run**" in names["insight"] and names["lesion_text"] == "Lesions: not run." and names["lesions"].empty
    assert f"make train EXPERIMENT={NETWORK} BUDGET=laptop" in text and not re.search(r"\b(nan|inf)\b", text)
    assert names["counts"].to_dict() == {"not run": len(names["findings"])}


@pytest.mark.parametrize("wrong", [{"limit": 1}, {"part": 30}])
def test_what_cannot_be_mixed_is_refused(wrong, place):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        run("latent_space", **{**LATENT, **wrong})


# --- The pictures


def test_pixels_near_an_edge(visual):
    step = torch.zeros(1, 3, 20, 40)
    step[..., 20:] = 1
    step += torch.linspace(0, 0.01, 40)  # a gradient everywhere, weak but at the step
    strong, near, flat = visual["regions"](step)
    assert strong[0, 0, 10].nonzero().flatten().tolist()[:1] == [19] or strong[0, 0, 10, 19:21].all()
    assert near[0, 0, 10, 17:23].all() and not near[0, 0, 10, 5:12].any() and flat[0, 0, 10, 2:10].any()
    assert not (near & flat).any()
    clean, image = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    image[..., 0] = 0.1
    left = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    left[..., 0] = True
    assert visual["psnr_on"](left, clean, image) == pytest.approx(20, abs=1e-3)
    assert visual["psnr_on"](torch.ones_like(left), clean, image) == pytest.approx(psnr(clean, image), abs=1e-3)


def test_the_detail_is_where_the_picture_varies_most(visual):
    image = torch.full((1, 3, 40, 50), 0.5)
    image[..., 25:35, 12:22] = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    top, left, side = visual["busiest"](image, 10)
    assert abs(top - 25) <= 1 and abs(left - 12) <= 1 and side == 10
    assert visual["detail"](image, (25, 12, 10)).shape == (1, 3, 10, 10)
    assert visual["busiest"](image, 100)[2] == 40  # a detail is no larger than the picture


def test_the_claim_on_edges_is_decided(visual):
    """A blur removes noise everywhere, and most of all where there is no edge."""
    ((kind, label, better, special, leads),) = visual["compared"]
    assert (kind, label) == ("faces", "BM3D")
    assert better == Decision.HOLDS and special == Decision.FAILS
    assert (leads["flat"] > leads["near"]).all()
    rows = visual["numbers"].set_index(["method", "picture"])["psnr"]
    for case in visual["pictures"]["faces"]["cases"]:
        assert rows["FDN", case["name"]] == pytest.approx(
            psnr(case["clean"], blurred(case["noisy"]).clamp(0, 1)), abs=1e-3
        )
    means = visual["means"].loc["faces"]
    assert means.loc["FDN", "sharpness"] < means.loc["BM3D", "sharpness"]
    assert means.loc[["FFDNet", "DnCNN, trained here"]].isna().all(axis=None)
    assert "better at edges*: holds against 1" in visual["verdict_text"]


def test_missing_networks_leave_empty_panels(visual, place):
    assert visual["aerial_psnr"]["FDN"] is None and visual["aerial_psnr"]["BM3D"] is not None
    assert visual["real_psnr"]["FDN"] is None
    assert any("fdn-faces-s50" not in note and "**fdn-" in note and "not run" in note for note in visual["notes"])
    assert {file.name for file in (place / "figures").glob("fdn-fig*.png")} == {
        "fdn-fig6-8.png",
        "fdn-fig9.png",
        "fdn-fig10.png",
    }


def test_a_network_that_nobody_declared_is_not_run(place, monkeypatch):
    names: dict = {}
    monkeypatch.setitem(VISUAL, "aerial_network", "fdn-of-no-paper")
    monkeypatch.setitem(VISUAL, "limit", 1)
    names = visual_with(monkeypatch)
    assert any("fdn-of-no-paper: not run" in note and "declared" in note for note in names["notes"])
    text = (place / "tables" / "fdn-fig6-10.md").read_text(encoding="utf-8")
    assert names["compared"] == [] and "**not run**; FDN has no weights here" in text
    assert names["claim_text"].count("**not run**") == 2 * (len(names["labels"]) - 1)
    assert not re.search(r"\b(nan|inf)\b", text)


def test_right_of_the_middle_is_the_difference(visual):
    clean, image = torch.full((1, 3, 4, 6), 0.5), torch.full((1, 3, 4, 6), 0.3)
    found = visual["left_and_right"](image, clean)
    assert torch.equal(found[..., :3], image[..., :3]) and torch.allclose(found[..., 3:], torch.tensor(0.8))

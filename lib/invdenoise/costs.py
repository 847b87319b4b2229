"""What a method costs: its size, its operations, and what it was trained on."""

from __future__ import annotations

import math
from typing import Any

from invdenoise import methods, papers
from invdenoise.models.base import count_macs
from invdenoise.weights import read_card, weights_path


def cost_of(method: str, channels: int, side: int) -> dict[str, Any]:
    """What a method is called, its size and its operations.

    Args:
        method: a name of `methods.list_denoisers(everything=True)`. A network trained here need not have weights.
        channels: of the picture, 1 or 3.
        side: of the square picture on which operations are counted, in pixels.

    Returns:
        `method`; `title`, as figures call it; `label`, which has the name too where it is a network; `parameters`; and
        `macs_per_pixel`, multiply-accumulates in one pass over the picture, for each of its pixels. Both numbers are NaN for a method
        that is no network, and for one whose authors' weights cannot be had, which is called by its name.
    """
    row = {"method": method, "title": method, "label": method, "parameters": math.nan, "macs_per_pixel": math.nan}
    if not methods.is_network(method):
        title = methods.load_denoiser(method).display_name
        return row | {"title": title, "label": title}
    theirs = method in papers.authors()
    if theirs and methods.why_not(method):
        return row
    network = methods.load_network(method) if theirs else papers.network(method).build()
    title, macs = network.display_name, count_macs(network, (channels, side, side))
    return row | {
        "title": title, "label": f"{title} `{method}`", "parameters": network.num_parameters(), "macs_per_pixel": macs / side**2,
    }  # fmt: skip


def crops_seen(method: str) -> str:
    """Crops of a network's own training by its released card, "12,000", with a plus sign if it started from trained weights.

    Empty for a method that was not trained here.
    """
    if method in papers.authors() or not methods.is_network(method) or not weights_path(method).exists():
        return ""
    card = read_card(weights_path(method))
    return f"{card['patches']:,}" + " +" * bool(card["started_from"])

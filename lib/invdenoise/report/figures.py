"""One style for every figure, and one helper that saves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from invdenoise import paths
from invdenoise.files import atomic

# Okabe and Ito's palette: colour-blind readers can tell the colours apart, and so can a gray print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
    "svg.hashsalt": "invdenoise",  # the same figure gives the same file
}


def use_style() -> None:
    """Set the style of every figure. Call it once, in the cell of imports."""
    matplotlib.rcParams.update(STYLE)
    matplotlib.rcParams["axes.prop_cycle"] = matplotlib.cycler(color=COLOURS)


def save_figure(figure: Figure, name: str) -> Path:
    """Save as `results/figures/<name>.png` (for screens) and `.svg` (for print); returns the path of the PNG."""
    for suffix in ("svg", "png"):
        path = paths.figures_dir() / f"{name}.{suffix}"
        with atomic(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return path


def show_pictures(
    pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4, width: float = 10.0, limits=(0.0, 1.0)
) -> Figure:
    """A figure of pictures `(H, W)` or `(H, W, 3)` in rows of `columns`, each under its title.

    Args:
        limits: values shown as black and as white. A list gives a pair for each picture.
        width: of the figure in inches.
    """
    rows = -(-len(pictures) // columns)
    height, breadth = pictures[0].shape[:2]
    size = (width, rows * (width / columns * height / breadth + 0.35))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    each = limits if isinstance(limits, list) else [limits] * len(pictures)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture, title, (low, high) in zip(axes.flat, pictures, titles, each, strict=False):
        ax.imshow(picture, vmin=low, vmax=high)
        ax.set_title(title)
    return figure

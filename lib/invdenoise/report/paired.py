"""Methods beside each other on the same pictures: mean differences with their 95 % intervals, as tables and as a figure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from invdenoise.report.claims import interval
from invdenoise.report.figures import COLOURS
from invdenoise.report.tables import is_own, number, set_label, signed

ENDS = ["difference", "lower", "upper"]  # columns of a mean difference and of the ends of its interval
NOT_RUN = "not run"


# --- Differences


def against(
    rows: pd.DataFrame,
    reference: str,
    *,
    method: str = "method",
    within: Sequence[str] = ("requested",),
    metric: str = "psnr",
) -> pd.DataFrame:
    """The mean of each method over the pictures, and its mean difference to a reference on the same pictures.

    Args:
        rows: of scores, one row for each picture, method and condition.
        reference: the method that is subtracted.
        method: column that names the methods.
        within: columns of the conditions; methods are compared under one and the same.
        metric: column of the numbers.

    Returns:
        A row for each condition and method, in their order in `rows`, with `metric`, `num_images`, and `ENDS`: the mean difference
        and the ends of its 95 % t interval, in units of the metric. NaN where the reference has no rows under the condition;
        infinite ends for a single picture.

    Raises:
        ValueError: a method has two rows of one picture, or was scored on other pictures than the reference.
    """
    found = {}
    for where, cell in rows.groupby(list(within), sort=False):
        by_picture = {name: _by_picture(part, name, metric) for name, part in cell.groupby(method, sort=False)}
        other = by_picture.get(reference)
        for name, values in by_picture.items():
            ends = [math.nan] * 3
            if other is not None:
                if set(values.index) != set(other.index):
                    raise ValueError(
                        f"{name} and {reference} were scored on different pictures ({where}): {len(values)} and {len(other)}"
                    )
                ends = interval(values - other.loc[values.index])
            found[(*where, name)] = [values.mean(), len(values), *ends]
    return _frame(found, [*within, method], metric)


def gains(
    rows: pd.DataFrame, *, method: str = "method", within: Sequence[str] = ("requested",), metric: str = "psnr"
) -> pd.DataFrame:
    """As `against`, with the picture before denoising as the reference: column `<metric>_noisy` of the same row."""
    found = {}
    for where, part in rows.groupby([*within, method], sort=False):
        ends = interval(part[metric].astype(float) - part[f"{metric}_noisy"].astype(float))
        found[where] = [part[metric].astype(float).mean(), len(part), *ends]
    return _frame(found, [*within, method], metric)


def _by_picture(part: pd.DataFrame, name: str, metric: str) -> pd.Series:
    values = part.set_index("image")[metric].astype(float)
    if not values.index.is_unique:
        raise ValueError(f"{name} has several rows of picture {values.index[values.index.duplicated()][0]!r}")
    return values


def _frame(found: Mapping[tuple, Sequence[float]], names: Sequence[str], metric: str) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(found, names=names) if found else pd.MultiIndex.from_arrays([[] for _ in names])
    frame = pd.DataFrame(list(found.values()), index=index, columns=[metric, "num_images", *ENDS], dtype=float)
    return frame.rename_axis(names).astype({"num_images": int})


# --- In words


def in_words(difference: float, lower: float, upper: float, digits: int = 2) -> str:
    """A difference with its interval, "+0.12 (−0.05 to +0.30)"; empty for NaN, and without the ends where these are infinite."""
    if not math.isfinite(lower):
        return signed(difference, digits)
    return f"{signed(difference, digits)} ({signed(lower, digits)} to {signed(upper, digits)})"


def cells(
    found: pd.DataFrame, labels: Mapping[str, str], columns: Mapping[object, str], reference: str
) -> pd.DataFrame:
    """A table of methods, a column a condition: "27.39 (−0.62, −0.65 to −0.59)" is a mean, its difference to the reference and the ends.

    Args:
        found: rows of `against`, indexed by condition and method.
        labels: method -> what its row is called, in the order of the rows. A method without a result is "not run".
        columns: condition -> heading.
        reference: its own cells have no difference.
    """

    def text(condition: object, method: str) -> str:
        if (condition, method) not in found.index:
            return NOT_RUN
        mean, _, difference, lower, upper = found.loc[(condition, method)]
        if method == reference or pd.isna(difference):
            return number(mean)
        return f"{number(mean)} ({signed(difference)}, {signed(lower)} to {signed(upper)})"

    filled = {heading: [text(condition, method) for method in labels] for condition, heading in columns.items()}
    return pd.DataFrame(filled, index=list(labels.values()))


def better_or_worse(
    found: pd.DataFrame, labels: Mapping[str, str], sets: Iterable[str], reference: str, name: str
) -> pd.DataFrame:
    """For each set, which methods are better than the reference, undecided, or worse, by their intervals.

    Args:
        found: rows of `against`, indexed by set and method.
        labels: method -> label.
        reference: the method that they were compared with; it is left out itself.
        name: what the reference is called.
    """
    lines = {}
    for one in sets:
        part = found.loc[one].reindex([method for method in labels if method != reference]).dropna(subset="difference")
        words = {
            f"better than {name}": part["lower"] > 0,
            "undecided": (part["lower"] <= 0) & (part["upper"] >= 0),
            f"worse than {name}": part["upper"] < 0,
        }
        lines[set_label(one)] = {
            word: "; ".join(labels[method] for method in part.index[which]) or "none" for word, which in words.items()
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("set")


def headings(rows: pd.DataFrame, sets: Iterable[str], stand_in: str = "\nSTAND-IN") -> dict[str, str]:
    """Set -> its name as it is printed, and that other pictures stand in for it where they do."""
    parts = {name: rows[rows["requested"] == name] for name in sets}
    return {
        name: set_label(name) + ("" if part.empty or is_own(part) else stand_in.format(part["dataset"].iloc[0]))
        for name, part in parts.items()
    }


def titles(rows: pd.DataFrame, sets: Iterable[str]) -> dict[str, str]:
    """Set -> a line in Markdown above a table of it: its name and how many pictures; pictures that stand in are named."""
    counts = rows.groupby("requested")["image"].nunique()
    named = headings(rows, sets, " – STAND-IN, pictures of {}").items()
    return {name: f"**{text}**" + (f", {counts[name]} pictures" if name in counts else "") for name, text in named}


# --- The figure


def say_not_run(ax: Axes, height: float | None = None) -> None:
    """Write "not run" in the middle of a panel, or at a height of its vertical axis."""
    where = ax.transAxes if height is None else ax.get_yaxis_transform()
    ax.text(0.5, 0.5 if height is None else height, NOT_RUN, color="#888888", ha="center", va="center", transform=where)


def dots(
    found: pd.DataFrame,
    labels: Mapping[str, str],
    panels: Mapping[str, str],
    levels: Mapping[object, str] | None = None,
    *,
    marked: Collection[str] = (),
    colours: Sequence[str] = COLOURS,
    xlabel: str = "difference (dB)",
    size: tuple[float, float],
) -> Figure:
    """A panel for each set: a dot at each method's mean difference, on a line along its 95 % interval.

    Args:
        found: with `ENDS`, indexed by panel and method, or by panel, level and method.
        labels: method -> label, from top to bottom. A method without a difference in a panel is "not run" there.
        panels: panel -> title.
        levels: level -> label, with a colour of its own each; None for an index without levels.
        marked: methods in the second colour, where there are no levels.
        size: of the figure in inches.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    keys = [()] if levels is None else [(level,) for level in levels]
    for ax, (panel, title) in zip(axes[0], panels.items(), strict=True):
        for place, method in enumerate(labels):
            drawn = False
            for number_of_level, key in enumerate(keys):
                ends = found[ENDS].loc[(panel, *key, method)] if (panel, *key, method) in found.index else None
                if ends is None or ends.isna().any():
                    continue
                height = place + 0.2 * (number_of_level - (len(keys) - 1) / 2)
                colour = colours[int(method in marked)] if levels is None else colours[number_of_level]
                ax.plot(ends[1:], [height, height], color=colour)
                ax.plot(ends.iloc[0], height, "o", color=colour, markersize=6 if levels is None else 4)
                drawn = True
            if not drawn:
                say_not_run(ax, place)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(title=title, xlabel=xlabel)
    axes[0, 0].set_yticks(range(len(labels)), labels.values(), fontsize=8)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    if levels is not None:
        marks = [plt.Line2D([], [], color=colours[index], marker="o", markersize=4) for index in range(len(levels))]
        figure.legend(marks, levels.values(), loc="outside lower center", ncols=len(levels))
    return figure

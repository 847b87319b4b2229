"""`make release`: the local run becomes the released one, and what the READMEs show is made from it.

python -m invdenoise.report.release            # results/{scores,tables,figures,...} -> results/released, READMEs
python -m invdenoise.report.release --readme   # READMEs and the page of measurements alone
python -m invdenoise.report.release --accept NETWORK --reason "..."   # writes on its card why its validation may be lower
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.papers import RELEASED, Paper
from invdenoise.plan import finished_ablations
from invdenoise.report import audit
from invdenoise.report.claims import claims_markdown, decide_all
from invdenoise.report.compare import Results, all_numbers, beside, read_results
from invdenoise.report.page import paper_counts, write_report
from invdenoise.report.tables import in_digits, markdown_table
from invdenoise.tasks.base import score_folder

README = paths.ROOT / "README.md"
MEASUREMENTS = "measurements.md"
KEPT = ("tables", "figures", "bench.csv")  # and the papers' scores; the site is written anew
MOST_FAULTS = 20  # that one message lists
OPENING = re.compile(r"<!-- (?:papers|claims|table)(?:: [^\n]+?)? -->")
BLOCK = re.compile(r"(<!-- (?P<kind>papers|claims|table)(?:: (?P<place>[^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL)


def release() -> None:
    """Copy the local run into `results/released`, whole or not at all, and write its site.

    Measurements, and curves of ablations, that were not made again stay as they were released before. Measurements on
    another processor stay beside the new ones, as `bench-<processor>.csv`. Of the scores, those of the papers are
    released, and no others.

    Raises:
        RuntimeError: the run is not one to release: it has no report, scores of pictures that stand in, or no
            measurements, neither of this run nor released before; or `audit.faults` finds something.
        FileNotFoundError: it has no scores.
        ValueError: a score file is damaged or cut off.
    """
    local = paths.results_dir()
    if not (local / "report.html").exists():
        raise RuntimeError(f"no {local / 'report.html'}; run `make paper` first")
    results = read_results(local)
    if results.stand_in:
        raise RuntimeError(
            "these scores are of embedded pictures; run `make data`, then `make paper`, and release that"
        )
    if not any((folder / "bench.csv").exists() for folder in (local, paths.RELEASED)):
        raise RuntimeError(f"no {local / 'bench.csv'}, and none released before; run `make bench` first")
    if found := audit.faults(local):
        more = [f"... and {len(found) - MOST_FAULTS} more"] if len(found) > MOST_FAULTS else []
        raise RuntimeError("\n  ".join(["this run is not released:", *found[:MOST_FAULTS], *more]))
    paths.RELEASED.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RELEASED.parent) as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        fresh.mkdir()
        hidden = shutil.ignore_patterns("*.svg", ".*")
        for paper in results.papers.values():
            for score in results.scores(paper):
                shutil.copytree(score_folder(local, score), score_folder(fresh, score), ignore=hidden)
        for name in KEPT:
            source = local / name
            if not source.exists():  # not made again this time
                source = paths.RELEASED / name
            if source.is_dir():
                shutil.copytree(source, fresh / name, ignore=hidden)
            elif source.exists():
                shutil.copy2(source, fresh / name)
        measured = _processor(fresh / "bench.csv")
        for file in sorted(paths.RELEASED.glob("bench*.csv")):
            if (processor := _processor(file)) != measured:
                slug = re.sub(r"\W+", "-", processor.lower()).strip("-")
                shutil.copy2(file, fresh / f"bench-{slug}.csv")
        curves = finished_ablations(paths.RELEASED) | finished_ablations(local)
        for name, curve in curves.items():
            (fresh / "ablations").mkdir(exist_ok=True)
            shutil.copy2(curve, fresh / "ablations" / f"{name}.csv")
        # Executed notebooks may show pictures of datasets, so the released pages are those of the stored ones.
        write_report(Results(fresh, results.papers), None, RELEASED, fresh)
        if paths.RELEASED.exists():
            paths.RELEASED.rename(old)
        try:
            fresh.rename(paths.RELEASED)
        except OSError:
            if old.exists():
                old.rename(paths.RELEASED)
            raise


def _processor(bench: Path) -> str:
    """The processor that a file of measurements was taken on."""
    return pd.read_csv(bench, usecols=["hardware"])["hardware"].iloc[0].rpartition(", ")[2]


# --- What is made from the released results


def made_anew() -> dict[Path, str]:
    """Text of every page that is made from the released results: README, READMEs of papers that have one, measurements.

    Raises:
        FileNotFoundError: nothing released, or no measurements.
        ValueError: README.md has no place for the table of papers, or another README asks for what its paper does not declare.
    """
    results = read_results(paths.RELEASED)
    texts = {paths.RELEASED / MEASUREMENTS: measurements()}
    if "<!-- papers -->" not in (text := README.read_text(encoding="utf-8")):
        raise ValueError("README.md has no place for the papers: <!-- papers --> ... <!-- end -->")
    texts[README] = _filled(text, README, {"papers": lambda _: papers_table(results)})
    for name, paper in results.papers.items():
        if (readme := paths.NOTEBOOKS / name / "README.md").exists():
            texts[readme] = paper_readme(paper, results, readme)
    return texts


def refresh() -> None:
    """Write `made_anew`; nothing is written when something cannot be made."""
    for path, text in made_anew().items():
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def paper_readme(paper: Paper, results: Results, readme: Path) -> str:
    """A paper's README with its blocks made anew: `<!-- claims -->` and `<!-- table: PLACE -->`, each up to `<!-- end -->`."""

    def table(place: str) -> str:
        if place not in paper.compare:
            raise ValueError(
                f"{readme}: {paper.name} compares nothing at {place!r}; there is {', '.join(paper.compare)}"
            )
        return "\n\n".join(one.markdown for one in beside(paper, place, results))

    blocks = {"claims": lambda _: claims_markdown(decide_all(paper, results).values()), "table": table}
    return _filled(readme.read_text(encoding="utf-8"), readme, blocks)


def _filled(text: str, file: Path, blocks: dict[str, Callable[[str], str]]) -> str:
    def fill(found: re.Match) -> str:
        kind = found["kind"]
        if kind not in blocks:
            raise ValueError(f"{file}: <!-- {kind} --> does not belong here; expected {', '.join(blocks)}")
        return f"{found[1]}{blocks[kind](found['place'] or '')}\n{found[4]}"

    text, filled = BLOCK.subn(fill, text)
    if (opened := len(OPENING.findall(text))) != filled:
        raise ValueError(f"{file}: {opened - filled} of {opened} places to fill are not closed by <!-- end -->")
    return text


def papers_table(results: Results) -> str:
    """A row a paper: claims by verdict, and distinct printed numbers by verdict, of networks trained here and of the rest."""
    numbers = all_numbers(results)
    lines = []
    for paper in results.papers.values():
        found = paper_counts(paper, numbers, decide_all(paper, results))
        link = f"[{paper.short}](notebooks/{paper.name}/README.md)"
        lines.append([link, *(_tally(found[part]) for part in ("claims", "ours", "others", "alone"))])
    header = ["paper", "claims", "numbers, trained here", "numbers, authors' weights and classical", "printed only"]
    return markdown_table(header, lines, text_columns=len(header))


def _tally(counts: dict[str, int]) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in counts.items()) or "–"


def measurements() -> str:
    """The page of released measurements, a table a processor, the latest first; FileNotFoundError when there are none."""
    latest = paths.RELEASED / "bench.csv"
    if not latest.exists():
        raise FileNotFoundError(f"no {latest}; run `make bench`, then `make release`")
    about = (
        "# Speed and memory\n\nMade by `make readme` from `bench*.csv`. Contenders take turns in one run (`make bench`). Ratios are medians "
        "over rounds,\nso they may differ from the quotient of the values shown. For training steps the ratio says how many times longer the "
        "row takes\nthan the reference.\n"
    )
    return "\n".join([about, *map(_measured, (latest, *sorted(paths.RELEASED.glob("bench-*.csv"))))])


def _measured(file: Path) -> str:
    """One file of measurements as a section."""
    table = pd.read_csv(file)
    lines = []
    for row in table.to_dict("records"):
        ratio = "" if pd.isna(row["ratio"]) else f"{row['ratio']:.2f} × {row['reference']}"
        reached = "met" if row["met"] in (True, "True") else "missed"
        target = "" if pd.isna(row["target"]) else f"{row['target']}: {reached}"
        lines.append(
            [
                row["quantity"],
                f"{row['subject']}, {row['setting']}",
                f"{in_digits(row['value'])} {row['unit']}",
                ratio,
                target,
            ]
        )
    header = ["measured", "subject", "value", "ratio", "target"]
    return f"## {table['hardware'].iloc[0]}\n\n{markdown_table(header, lines, text_columns=2)}\n"


def main(arguments: list[str] | None = None) -> int:
    """Release the local run; 0 when it is done."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.report.release", description=main.__doc__)
    parser.add_argument(
        "--readme", action="store_true", help="only make READMEs and measurements anew, from results/released"
    )
    parser.add_argument(
        "--accept", metavar="NETWORK", help="only write on its card why its validation may be lower than before"
    )
    parser.add_argument("--reason", default="", help="for --accept")
    options = parser.parse_args(arguments)
    try:
        if options.accept is not None:
            print(
                f"written to {audit.accept_lower(options.accept, options.reason)}; commit it, then run `make release`"
            )
            return 0
        if not options.readme:
            release()
        refresh()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

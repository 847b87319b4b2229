"""`make release`: the local run becomes the released one, and the README's tables are made from it.

python -m invdenoise.release            # results/{scores,tables,figures,...} -> results/released, README
python -m invdenoise.release --readme   # the README alone
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd

from invdenoise import paths
from invdenoise.files import atomic
from invdenoise.report import (
    blind_markdown,
    finished_ablations,
    in_digits,
    markdown_table,
    read_results,
    variants_markdown,
)

README = paths.ROOT / "README.md"
KEPT = ("scores", "deblurring", "tables", "figures", "bench.csv", "report.html")


def release() -> None:
    """Copy the local run into `results/released`.

    Measurements, and curves of ablations, that were not made again stay as they were released before. Measurements on another
    processor stay beside the new ones, as `bench-<processor>.csv`.

    Raises:
        RuntimeError: the run is not one to release: no report, scores of the embedded pictures, or no measurements,
            neither of this run nor released before.
    """
    local = paths.results_dir()
    if not (local / "report.html").exists():
        raise RuntimeError(f"no {local / 'report.html'}; run `make paper` first")
    if read_results(local).stand_in:
        raise RuntimeError(
            "these scores are of the embedded pictures; run `make data`, then `make paper`, and release that"
        )
    if not any((folder / "bench.csv").exists() for folder in (local, paths.RELEASED)):
        raise RuntimeError(f"no {local / 'bench.csv'}, and none released before; run `make bench` first")
    paths.RELEASED.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.RELEASED.parent) as folder:
        fresh, old = Path(folder) / "fresh", Path(folder) / "old"
        fresh.mkdir()
        for name in KEPT:
            source = local / name
            if not source.exists():  # not made again this time
                source = paths.RELEASED / name
            if source.is_dir():
                shutil.copytree(source, fresh / name, ignore=shutil.ignore_patterns("*.svg", ".*"))
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
        page = fresh / "report.html"  # executed notebooks are not released, so it may not link to them
        page.write_text(re.sub(r'<a href="notebooks/[^"]*">(.*?)</a>', r"\1", page.read_text()))
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


def readme_text(text: str) -> str:
    """`text` with the parts between `<!-- name -->` and `<!-- end -->` made anew from the released results."""
    results = read_results(paths.RELEASED)
    made = {
        "table1": markdown_table(results),
        "variants": variants_markdown(results),
        "blind": blind_markdown(results),
        "bench": bench_table(),
    }
    for name, table in made.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md has no place for {name}: <!-- {name} --> ... <!-- end -->")
        text = pattern.sub(rf"\g<1>{table}\g<2>", text)
    return text


def bench_table() -> str:
    """The released measurements as Markdown, a table a processor, the latest first; FileNotFoundError when there are none."""
    latest = paths.RELEASED / "bench.csv"
    if not latest.exists():
        raise FileNotFoundError(f"no {latest}; run `make bench`, then `make release`")
    return "\n".join(_measured(file) for file in (latest, *sorted(paths.RELEASED.glob("bench-*.csv"))))


def _measured(file: Path) -> str:
    """One file of measurements as Markdown."""
    table = pd.read_csv(file)
    lines = [f"On {table['hardware'].iloc[0]}:", "", "| measured | | value | ratio | target |", "|---|---|---|---|---|"]
    for row in table.to_dict("records"):
        ratio = "" if pd.isna(row["ratio"]) else f"{row['ratio']:.2f} × {row['reference']}"
        target = (
            "" if pd.isna(row["target"]) else f"{row['target']}: {'met' if row['met'] in (True, 'True') else 'missed'}"
        )
        value = f"{in_digits(row['value'])} {row['unit']}"
        lines.append(f"| {row['quantity']} | {row['subject']}, {row['setting']} | {value} | {ratio} | {target} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Release the local run; 0 when it is done."""
    parser = argparse.ArgumentParser(prog="python -m invdenoise.release", description=main.__doc__)
    parser.add_argument("--readme", action="store_true", help="only refresh the README from results/released")
    options = parser.parse_args(arguments)
    try:
        if not options.readme:
            release()
        made = readme_text(README.read_text())
        with atomic(README) as temporary:
            temporary.write_text(made)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

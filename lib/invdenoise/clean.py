"""`make clean`: delete what commands wrote. What took long is deleted only when someone at a terminal says so.

Needs the standard library only, so that it works without an environment.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from invdenoise import paths
from invdenoise.files import exclusive

QUICK = (
    "tables",
    "figures",
    "notebooks/figures",
    "notebooks/report.ipynb",
    "notebooks/report.html",
    "report.html",
    "site",
    "smoke",
    ".cache",
)
# Hours of computing, or the reader's own. The facts and pages of scores go with the scores, which would be made again without them.
COSTLY = ("scores", "facts", "notebooks", "runs", "laptop", "paper", "tour", "bench.csv")
NOTES = ("paper.log", "slurm", ".snakemake")  # of runs; the graph needs them as long as there are scores


def clean(results: Path, ask: Callable[[str], bool] | None, report: Callable[[str], None] = print) -> None:
    """Delete what commands wrote to a results folder. Released results and weights are not among it.

    Args:
        ask: whether to delete what the question names; None where nobody can be asked, and then it is kept.
        report: called with lines that say what is kept.

    Raises:
        RuntimeError: a run that writes there is under way, or SLURM jobs of one may be.
    """
    if not results.is_dir():
        return
    for note in (results / "submitted", *results.glob("*/submitted")):
        if note.exists():
            raise RuntimeError(
                f"SLURM jobs may still write to {note.parent}; run `make cluster` again, which ends them"
            )
    with contextlib.ExitStack() as locks:
        held = [lock for lock in results.rglob("lock") if lock.is_file()]
        for lock in held:
            locks.enter_context(exclusive(lock, f"what writes to {lock.parent}"))
        # In a folder that INVDENOISE_RESULTS names, figures and tables may be somebody's own.
        usual = results == paths.ROOT / "results"
        quick, slow = (QUICK, COSTLY) if usual else ((), (*QUICK, *COSTLY))
        for name in quick:
            _remove(results / name)
        with contextlib.suppress(OSError):
            (results / "notebooks").rmdir()  # nothing but pages of figures was in it
        costly = [name for name in slow if (results / name).exists()]
        if costly and (
            ask is None or not ask(f"Delete {', '.join(map(_described(results), costly))}? This may be hours of work.")
        ):
            report(f"kept in {results}: {', '.join(costly)}" + (" (no terminal to ask at)" if ask is None else ""))
            return
        for name in (*costly, *NOTES):
            _remove(results / name)
        if usual:  # else it has notes on other folders too
            _remove(paths.ROOT / ".snakemake")
        _remove(results / "lock")


def _described(results: Path) -> Callable[[str], str]:
    def described(name: str) -> str:
        files = [file for file in (results / name, *(results / name).rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        return f"{name} ({len(files)} file{'s' * (len(files) != 1)}, {size:.1f} MB)"

    return described


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _ask(question: str) -> bool:
    return input(f"{question} [y/N] ").strip().lower() == "y"


def main() -> int:
    """Clean the results folder; 0 when that is done, whatever was kept."""
    try:
        clean(paths.results_dir(), _ask if sys.stdin.isatty() else None)
    except (EOFError, KeyboardInterrupt):
        print("\nkept")
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

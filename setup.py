"""Puts into the package what the library reads outside of its own folder; pyproject.toml says everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Every card goes along; `released_weights` in lib/invdenoise/weights.py says where the large weights come from.
SHARE = (
    "notebooks/*/paper.yaml",
    "data/sources.yaml",
    "data/registry/*.csv",
    "data/published/*.csv",
    "results/weights/*.json",
    "results/weights/*.safetensors",
)
LARGEST = 3e6  # bytes of a file that goes along


class BuildWithShare(build_py):
    """Also copies these files to `invdenoise/share`, laid out as in the checkout."""

    def run(self):
        super().run()
        if self.editable_mode:  # the library stays in the checkout
            return
        share = Path(self.build_lib, "invdenoise", "share")
        shutil.rmtree(share, ignore_errors=True)  # of an earlier build
        for pattern in SHARE:
            files = sorted(ROOT.glob(pattern))
            if not files:
                raise FileNotFoundError(f"no {pattern} in {ROOT}; build from a checkout of the repository")
            for file in files:
                if file.stat().st_size <= LARGEST:
                    target = share / file.relative_to(ROOT)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)


setup(cmdclass={"build_py": BuildWithShare})

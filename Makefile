# The front door. `make` prints what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BUDGET ?= released
PAPER ?= all
FIGURE ?=
PROFILE ?= profiles/slurm
PYTHON ?= python3
# Processes of the tests. nproc would take OMP_NUM_THREADS for a number of cores.
PROCESSES = $(or $(CORES),$(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 2))
# A conda user's environment (environment.yml) serves as it is: make paper BIN="$$CONDA_PREFIX/bin"
BIN ?= .venv/bin
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONPATH := $(CURDIR)/lib
export PYTHONNOUSERSITE := 1
export PYTHONUTF8 := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
unexport PYTHONHOME PYTHONSTARTUP

ifeq ($(BIN),.venv/bin)
ENV := .venv/.ready .venv/bin/invdenoise $(if $(BM3D),.venv/.bm3d)
endif

help: ## print this
	@echo "Usage: make TARGET [BUDGET=released|smoke|laptop|paper] [PAPER=all|<folder of notebooks/>] [FIGURE=<folder>/<name>] [CORES=n] [BM3D=1]"
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(ENV) ## set up .venv from requirements.txt (other targets do it by themselves); BM3D=1 adds BM3D, for non-commercial use only

.venv/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"needs Python 3.11, found {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11, or conda env create -f environment.yml")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt
	@echo "$(CURDIR)/lib" > "$$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/invdenoise.pth"
	@touch $@

# The command of pyproject.toml, without installing the checkout as a package.
.venv/bin/invdenoise: .venv/.ready
	@printf '%s\n' '#!/bin/sh' 'exec "$$(dirname "$$0")/python" -m invdenoise "$$@"' > $@ && chmod +x $@

# Its licence allows non-commercial use only, so it is installed where it is asked for.
.venv/.bm3d: requirements-bm3d.txt .venv/.ready
	.venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements-bm3d.txt
	@touch $@

data: $(ENV) ## fetch every dataset, and list what is there and what could not be had
	python -m invdenoise.data.fetch

paper: $(ENV) ## regenerate every table, figure and the report from the released weights; BUDGET=smoke trains too, PAPER=<folder> is one paper, FIGURE=<folder>/<name> one figure or table
	python -m invdenoise.run --budget $(BUDGET) --paper $(PAPER)$(if $(FIGURE), --figure $(FIGURE))$(if $(CORES), --cores $(CORES))

train: $(ENV) ## train or resume one network: make train EXPERIMENT=<name> BUDGET=laptop
	@test -n "$(EXPERIMENT)" || { echo "error: name a network of notebooks/*/paper.yaml: make train EXPERIMENT=<name> BUDGET=laptop"; exit 2; }
	python -m invdenoise.training $(EXPERIMENT) --budget $(if $(filter released,$(BUDGET)),laptop,$(BUDGET))

ablations: $(ENV) ## train short runs, one setting of a recipe changed in each
	python -m invdenoise.training $$(python -c 'from invdenoise.papers import ablations; print(*ablations())')

lab: export OMP_WAIT_POLICY ?= passive
lab: $(ENV) ## open the tour in JupyterLab, beside the list of all files
	jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url="/lab/tree/notebooks/00_tour.ipynb?file-browser-path=/"

test: export OMP_NUM_THREADS := 1
test: $(ENV) ## everything CI runs: lint, tests, every notebook, the whole graph on a small budget
	ruff check .
	ruff format --check .
	python -m pytest -m "not lab" --numprocesses $(PROCESSES) --dist loadfile
	export INVDENOISE_RESULTS=$$(mktemp -d); trap 'rm -rf "$$INVDENOISE_RESULTS"' EXIT; python -m pytest --numprocesses $(PROCESSES) --dist loadfile --nbval-lax --nbval-current-env notebooks

bench: $(ENV) ## measure speed and memory against the targets -> results/bench.csv
	python -m invdenoise.bench

cluster: $(ENV) ## the same graph through SLURM; PROFILE=<folder> names the cluster's settings, CORES=n CPUs of a training: profiles/README.md
	python -m invdenoise.run --budget $(BUDGET) --paper $(PAPER) --profile $(PROFILE)$(if $(FIGURE), --figure $(FIGURE))$(if $(CORES), --cores $(CORES))

release: $(ENV) ## maintainers: make the local run the released one, and refresh the READMEs' tables
	python -m invdenoise.report.release

readme: $(ENV) ## refresh the READMEs' tables from results/released
	python -m invdenoise.report.release --readme

# A CUDA build of PyTorch asks for NVIDIA's libraries and Triton by itself, at its own versions, and the CPU build needs
# none of them: as pins they would weigh gigabytes everywhere. The build ("+cpu", "+cu130") is left to pip for the same reason.
UNPINNED := /^(nvidia|cuda)[-_]|^(pytorch-)?triton==/d; s/\+(cpu|cu[0-9]+)$$//
pins: ## maintainers: write requirements.txt and requirements-bm3d.txt from a fresh environment with pyproject.toml's needs
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/pip install --quiet torch==2.13.0
	.venv-pins/bin/pip install --quiet -e '.[notebooks,graph,test]'
	{ head -n 1 requirements.txt; .venv-pins/bin/pip freeze --exclude-editable | sed -E '$(UNPINNED)'; } > requirements.new
	.venv-pins/bin/pip install --quiet -c requirements.new -e '.[bm3d]'
	{ head -n 1 requirements-bm3d.txt; .venv-pins/bin/pip freeze --exclude-editable | sed -E '$(UNPINNED)' | grep -vxFf requirements.new; } > requirements-bm3d.new
	mv requirements.new requirements.txt; mv requirements-bm3d.new requirements-bm3d.txt; rm -r .venv-pins

clean: ## delete what commands wrote; asks before scores, training and your own pictures; never touches results/released and results/weights
	@$(if $(wildcard $(BIN)/python),python,$(PYTHON)) -m invdenoise.clean

.PHONY: help env data paper train ablations lab test bench cluster release readme pins clean

# The graph: weights -> scores -> tables and figures -> report. `make paper` runs it; --config budget=... paper=... chooses.
# What a job is, the plan says (lib/invdenoise/plan.py): a rule only looks it up by its wildcard.
import json
import re
import sys
from shlex import quote

from invdenoise import plan

PLAN = plan.make_plan(config.get("budget", "released"), config.get("paper", plan.ALL))
RESULTS = plan.in_graph(PLAN.results)
PAGES = f"{RESULTS}/notebooks"
SCORES = [f"{RESULTS}/scores/{name}.csv" for name in PLAN.jobs]
MADE = [*SCORES, *(f"{PAGES}/scores/{name}.ipynb" for name in PLAN.jobs), *(f"{PAGES}/figures/{name}.ipynb" for name in PLAN.drawings)]


def execute(notebook, page, parameters):
    """Command line that executes a notebook with these parameters."""
    given = " ".join(f"-p {name} {quote(json.dumps(value))}" for name, value in parameters.items())  # JSON is YAML too
    command = f"{quote(sys.executable)} -m invdenoise.notebooks notebooks/{notebook}.ipynb {quote(page)} {given}"
    return f"INVDENOISE_RESULTS={quote(str(PLAN.results))} {command}"


wildcard_constraints:
    score="|".join(map(re.escape, PLAN.jobs)) or "-",
    figure="|".join(map(re.escape, PLAN.drawings)) or "-",
    network="|".join(map(re.escape, PLAN.trainings)) or "-",


# Everything is asked for by name: a score that went missing is made again even where a report of it is there.
rule all:
    input:
        MADE,
        f"{PAGES}/report.ipynb",
        f"{RESULTS}/report.html",


rule report:
    input:
        MADE,
        "notebooks/report.ipynb",
    output:
        f"{PAGES}/report.ipynb",
        f"{RESULTS}/report.html",
    params:
        command=execute("report", f"{PAGES}/report.ipynb", {"scores": "local", "budget": PLAN.budget}),
    shell:
        "{params.command}"


rule draw:
    input:
        lambda found: f"notebooks/{PLAN.drawings[found.figure].notebook}.ipynb",
        lambda found: PLAN.drawing_files(found.figure),
    output:
        f"{PAGES}/figures/{{figure}}.ipynb",
    params:
        command=lambda found: execute(
            PLAN.drawings[found.figure].notebook, f"{PAGES}/figures/{found.figure}.ipynb", PLAN.drawings[found.figure].parameters
        ),
    shell:
        "{params.command}"


# A failed job keeps its earlier score (`update`). Its page is gone then, so the next run makes both again.
rule score:
    input:
        "notebooks/evaluate.ipynb",
        lambda found: PLAN.weights_files(PLAN.jobs[found.score].method),
    output:
        update(f"{RESULTS}/scores/{{score}}.csv"),
        page=f"{PAGES}/scores/{{score}}.ipynb",
    priority: lambda found: PLAN.jobs[found.score].priority,
    params:
        command=lambda found: execute("evaluate", f"{PAGES}/scores/{found.score}.ipynb", PLAN.jobs[found.score].parameters),
    shell:
        "{params.command}"


rule train:
    input:
        "notebooks/train.ipynb",
        lambda found: PLAN.start_files(found.network),
    output:
        f"{RESULTS}/runs/{{network}}/{PLAN.budget}/weights.safetensors",
        page=f"{PAGES}/train/{{network}}.ipynb",
    priority: 100
    threads: 1 if PLAN.budget == "smoke" else workflow.cores
    params:
        command=lambda found: execute(
            "train", f"{PAGES}/train/{found.network}.ipynb", {"name": found.network, "budget": PLAN.budget}
        ),
    shell:
        "OMP_NUM_THREADS={threads} {params.command}"

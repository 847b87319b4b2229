# The graph: weights -> scores -> tables and figures -> report. `make paper` runs it; --config budget=... paper=... figure=... chooses.
# What a job is, the plan says (lib/invdenoise/plan.py): a rule only looks it up by its wildcard.
import json
import re
import sys
from shlex import quote

from invdenoise import facts, paths, plan

PLAN = plan.make_plan(config.get("budget", "released"), config.get("paper", plan.ALL), config.get("figure", ""))
RESULTS = plan.in_graph(PLAN.results)
PAGES = f"{RESULTS}/notebooks"
SCORES = [f"{RESULTS}/scores/{name}.csv" for name in PLAN.jobs]
FACTS = f"{RESULTS}/{facts.FOLDER}"  # what decides each job, apart from its other inputs
MADE = [*SCORES, *(f"{PAGES}/scores/{name}.ipynb" for name in PLAN.jobs), *(f"{PAGES}/figures/{name}.ipynb" for name in PLAN.drawings)]
RUNS = plan.in_graph(PLAN.runs)
RUN = f"INVDENOISE_RESULTS={quote(str(PLAN.results))} INVDENOISE_RUNS={quote(str(PLAN.runs))} {quote(sys.executable)} -m invdenoise.warm invdenoise.notebooks"

# Jobs on a cluster's nodes read this file too; they take the facts as they are.
if workflow.is_main_process:
    PLAN.write_facts()


def execute(notebook, page, parameters):
    """Arguments of RUN that execute a notebook with these parameters."""
    given = " ".join(f"-p {name} {quote(json.dumps(value))}" for name, value in parameters.items())  # JSON is YAML too
    return f"{quote(plan.in_graph(paths.NOTEBOOKS / f'{notebook}.ipynb'))} {quote(page)} {given}"


wildcard_constraints:
    score="|".join(map(re.escape, PLAN.jobs)) or "-",
    figure="|".join(map(re.escape, PLAN.drawings)) or "-",
    network="|".join(map(re.escape, PLAN.trainings)) or "-",


# Everything is asked for by name: a score that went missing is made again even where a report of it is there.
rule all:
    input:
        MADE,
        [] if PLAN.figure else [f"{PAGES}/report.ipynb", f"{RESULTS}/report.html"],


rule report:
    input:
        MADE,
        f"{FACTS}/report.txt",
    output:
        f"{PAGES}/report.ipynb",
        f"{RESULTS}/report.html",
    params:
        arguments=execute("report", f"{PAGES}/report.ipynb", PLAN.report_parameters),
    shell:
        "{RUN} {params.arguments}"


rule draw:
    input:
        f"{FACTS}/figures/{{figure}}.txt",
        lambda found: PLAN.drawing_files(found.figure),
    output:
        f"{PAGES}/figures/{{figure}}.ipynb",
    params:
        arguments=lambda found: execute(
            PLAN.drawings[found.figure].notebook, f"{PAGES}/figures/{found.figure}.ipynb", PLAN.drawings[found.figure].parameters
        ),
    shell:
        "{RUN} {params.arguments}"


# A failed job keeps its earlier score (`update`). Its page is gone then, so the next run makes both again.
rule score:
    input:
        f"{FACTS}/scores/{{score}}.txt",
        lambda found: PLAN.job_files(found.score),
    output:
        update(f"{RESULTS}/scores/{{score}}.csv"),
        page=f"{PAGES}/scores/{{score}}.ipynb",
    priority: lambda found: PLAN.jobs[found.score].priority,
    params:
        arguments=lambda found: execute("evaluate", f"{PAGES}/scores/{found.score}.ipynb", PLAN.jobs[found.score].parameters),
    shell:
        "{RUN} {params.arguments}"


rule train:
    input:
        f"{FACTS}/train/{{network}}.txt",
        lambda found: PLAN.start_files(found.network),
    output:
        f"{RUNS}/{{network}}/{PLAN.budget}/weights.safetensors",
        page=f"{PAGES}/train/{{network}}.ipynb",
    priority: 100
    threads: 1 if PLAN.budget == "smoke" else workflow.cores
    params:
        arguments=lambda found: execute(
            "train", f"{PAGES}/train/{found.network}.ipynb", PLAN.training_parameters(found.network)
        ),
    shell:
        "OMP_NUM_THREADS={threads} {RUN} {params.arguments}"

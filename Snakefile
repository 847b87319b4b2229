# The graph: weights -> scores -> tables and figures -> report. `make paper` runs it; --config budget=... paper=... chooses weights and figures.
import sys
from shlex import quote

from invdenoise import plan

PLAN = plan.make_plan(config.get("budget", "released"), config.get("paper", "all"))
RESULTS = plan.in_graph(PLAN.results)
PAGES = f"{RESULTS}/notebooks"
SCORES = [f"{RESULTS}/{job.scores}" for job in PLAN.evaluations]
EVALUATED = [f"{PAGES}/{job.page}" for job in PLAN.evaluations]
DRAWN = [f"{PAGES}/{name}.ipynb" for name in (*PLAN.figures, "00_tour")]
MADE = [*SCORES, *EVALUATED, *DRAWN]  # what the report reads and links


def execute(notebook, page, **parameters):
    """Command line that executes a notebook with these parameters.

    A rule keeps it in `params`, which are evaluated where the rule stands; `shell` is evaluated when the job runs, and would
    see the loop variables of the last rule.
    """
    given = " ".join(f"-p {name} {quote(str(value))}" for name, value in parameters.items())
    command = f"{quote(sys.executable)} -m invdenoise.notebooks notebooks/{notebook}.ipynb {quote(page)} {given}"
    return f"INVDENOISE_RESULTS={quote(str(PLAN.results))} {command}"


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
        command=execute("report", f"{PAGES}/report.ipynb", scores="local", budget=PLAN.budget),
    shell:
        "{params.command}"


rule tour:
    input:
        "notebooks/00_tour.ipynb",
        PLAN.weights_files("dninn-st-s25"),
    output:
        f"{PAGES}/00_tour.ipynb",
    params:
        command=execute("00_tour", f"{PAGES}/00_tour.ipynb", budget=PLAN.budget),
    shell:
        "{params.command}"


for name in PLAN.figures:

    rule:
        name:
            name.replace("/", "_")
        input:
            f"notebooks/{name}.ipynb",
            [f"{RESULTS}/{score}" for score in PLAN.figure_scores(name)],
            PLAN.figure_files(name),
        output:
            f"{PAGES}/{name}.ipynb",
        params:
            command=execute(name, f"{PAGES}/{name}.ipynb", **PLAN.figure_parameters(name)),
        shell:
            "{params.command}"


# `update` keeps an earlier score when its job fails. The page is gone then, and the next run takes up the job for its sake:
# to the graph the score that was kept would pass for a new one.
for job, score, page in zip(PLAN.evaluations, SCORES, EVALUATED):

    rule:
        name:
            job.rule
        input:
            f"notebooks/{job.notebook}.ipynb",
            PLAN.weights_files(job.method),
        output:
            update(score),
            page=page,
        priority: job.priority
        params:
            command=execute(job.notebook, page, **job.parameters),
        shell:
            "{params.command}"


for name in PLAN.trainings:

    rule:
        name:
            f"train_{name}"
        input:
            "notebooks/train.ipynb",
            PLAN.start_files(name),
        output:
            f"{RESULTS}/runs/{name}/{PLAN.budget}/weights.safetensors",
            page=f"{PAGES}/train/{name}.ipynb",
        priority: 100
        threads: 1 if PLAN.budget == "smoke" else workflow.cores
        params:
            command=execute("train", f"{PAGES}/train/{name}.ipynb", experiment=name, budget=PLAN.budget),
        shell:
            "OMP_NUM_THREADS={threads} {params.command}"

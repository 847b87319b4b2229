# The graph: weights -> scores -> tables and figures -> report. `make paper` runs it; --config budget=... chooses the weights.
import sys

from invdenoise import plan

PLAN = plan.make_plan(config.get("budget", "released"))
RESULTS = plan.in_graph(PLAN.results)
PAGES = f"{RESULTS}/notebooks"
SCORES = [f"{RESULTS}/scores/{job.output}" for job in PLAN.evaluations]


def execute(notebook, page, **parameters):
    """Command line that executes a notebook with these parameters."""
    given = " ".join(f"-p {name} '{value}'" for name, value in parameters.items())
    command = f"'{sys.executable}' -m invdenoise.notebooks notebooks/{notebook}.ipynb {page} {given}"
    return f"INVDENOISE_RESULTS='{PLAN.results}' {command}"


rule report:
    input:
        SCORES,
        [f"{PAGES}/{name}.ipynb" for name in plan.FIGURES],
        f"{PAGES}/00_tour.ipynb",
        "notebooks/report.ipynb",
    output:
        f"{PAGES}/report.ipynb",
        f"{RESULTS}/report.html",
    shell:
        execute("report", "{output[0]}", scores="local", budget=PLAN.budget)


rule tour:
    input:
        "notebooks/00_tour.ipynb",
        PLAN.weights_files("dninn-st-s25"),
    output:
        f"{PAGES}/00_tour.ipynb",
    shell:
        execute("00_tour", "{output}", budget=PLAN.budget)


for name in plan.FIGURES:

    rule:
        name:
            name.replace("/", "_")
        input:
            f"notebooks/{name}.ipynb",
            SCORES,
        output:
            f"{PAGES}/{name}.ipynb",
        shell:
            execute(name, "{output}", **PLAN.figure_parameters(name))


for job in PLAN.evaluations:

    rule:
        name:
            job.rule
        input:
            "notebooks/evaluate.ipynb",
            PLAN.weights_files(job.method),
        output:
            f"{RESULTS}/scores/{job.output}",
            page=f"{PAGES}/evaluate/{job.output.removesuffix('.csv')}.ipynb",
        priority: job.priority
        shell:
            execute("evaluate", "{output.page}", **job.parameters)


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
        shell:
            "OMP_NUM_THREADS={threads} " + execute("train", "{output.page}", experiment=name, budget=PLAN.budget)

"""`make cluster`: a small graph through a SLURM of one node, which is started here, has no accounting, and lives below a temporary folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import toy
import yaml

from invdenoise import paths, run
from invdenoise.files import exclusive

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
# The training waits in its first run, so that this can be stopped.
GRAPH = """
rule all:
    input: "{results}/scores/one", "{results}/weights"
rule score:
    output: "{results}/scores/{{name}}"
    shell: "echo $SLURM_JOB_ID $OMP_NUM_THREADS > {{output}}"
rule train:
    output: "{results}/weights"
    threads: workflow.cores
    shell: "echo started >> {results}/started; [ ! -e {results}/wait ] || sleep 300; echo $SLURM_JOB_ID {{threads}} > {{output}}"
"""
# The front process without what makes a plan, which would load PyTorch.
FRONT = """
import sys
from pathlib import Path
from unittest.mock import MagicMock
for name in ("papers", "plan", "data.fetch", "report.compare", "report.tables", "tasks.base"):
    sys.modules["invdenoise." + name] = MagicMock()
from invdenoise import paths, run
paths.ROOT = Path(sys.argv[1])
run.make_plan = lambda *given: MagicMock(results=Path(sys.argv[2]), budget="laptop", missing=())
run.costs, run.OVERHEAD = lambda plan: {}, 8.0
run._get_data = run.conclude = lambda *given: None
sys.exit(run.main(["--budget", "laptop", "--profile", sys.argv[3]]))
"""
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no SLURM here: {', '.join(MISSING)} not installed")


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(condition, what: str, seconds: float = 60.0) -> None:
    waited = time.monotonic()
    while not condition():
        assert time.monotonic() - waited < seconds, f"waited in vain for {what}"
        time.sleep(0.1)


def is_free(lock: Path) -> bool:
    try:
        with exclusive(lock, "another run"):
            return True
    except RuntimeError:
        return False


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Path:
    """The folder of a cluster of one node with two CPUs; its `bin/` has the commands that ask this cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    host, user = socket.gethostname().split(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, user=user, folder=folder, ports=free_ports(2)))
    where = f"{os.environ['PATH']}:/usr/sbin"
    # Inside a job the executor removes SLURM_CONF for srun, so each command sets it anew.
    for name in PROGRAMS[2:]:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which(name, path=where)} "$@"\n')
        script.chmod(0o755)
    daemons = []
    for name in PROGRAMS[:2]:
        command = [shutil.which(name, path=where), "-D", "-f", str(configuration)]
        daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    ask = folder / "bin" / "sinfo"
    waited = time.monotonic()
    while subprocess.run([ask, "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip() != "idle":
        if time.monotonic() - waited > 30 or any(daemon.poll() is not None for daemon in daemons):
            for daemon in daemons:
                daemon.kill()
            said = [line for name in PROGRAMS[:2] for line in (folder / f"{name}.log").read_text().splitlines()[-1:]]
            pytest.skip(f"SLURM is installed, but does not start on this machine: {'; '.join(said)}")
        time.sleep(0.2)
    yield folder
    subprocess.run([folder / "bin" / "scancel", "--user", user], check=True)
    until(lambda: not jobs(folder), "the end of all jobs")
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait(30)


def jobs(slurm: Path) -> list[list[str]]:
    """Number and name of the jobs that have not ended."""
    asked = subprocess.run([slurm / "bin" / "squeue", "-h", "-o", "%i %j"], capture_output=True, text=True, check=True)
    return [line.split() for line in asked.stdout.splitlines()]


@pytest.fixture
def results(slurm, tmp_path, monkeypatch) -> Path:
    """The results folder of a run on that cluster, of a checkout whose graph has two jobs."""
    monkeypatch.setenv("PATH", f"{slurm / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("INVDENOISE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(run, "fetch", lambda *wanted: [])
    toy.declare(tmp_path, monkeypatch, {"smooth-s25": {"model": "toy.Smooth", "sigma": 25}})
    monkeypatch.setattr(run, "all_numbers", lambda results: pd.DataFrame({"paper": []}))
    monkeypatch.setattr(run, "counts", lambda numbers: {})
    folder = tmp_path / "results" / "laptop"
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "Snakefile").write_text(GRAPH.format(results=folder))
    monkeypatch.setattr(paths, "ROOT", checkout)
    return folder


@pytest.fixture
def profile(tmp_path) -> Path:
    """The profile of the checkout, but for its waiting times and what a small node has not."""
    settings = yaml.safe_load((Path(__file__).parents[1] / "profiles" / "slurm" / "config.yaml").read_text())
    settings |= {"slurm-init-seconds-before-status-checks": 1, "latency-wait": 5, "cores": 2}
    settings["default-resources"] |= {"mem_mb": 500}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "profile"


@pytest.mark.slow
def test_jobs_run_on_the_cluster_with_their_own_threads_and_under_the_lock_of_make_paper(results, profile, slurm):
    said = []
    with exclusive(results / "lock", "make paper (laptop)"), pytest.raises(RuntimeError, match="already running"):
        run.regenerate("laptop", report=said.append, profile=profile)
    assert not jobs(slurm) and not (results / "scores").exists()
    assert run.regenerate("laptop", report=said.append, profile=profile) == 0, said
    (score, threads), (training, cores) = ((results / name).read_text().split() for name in ("scores/one", "weights"))
    assert score != training and score.isdigit() and training.isdigit()  # two jobs of SLURM
    assert (threads, cores) == ("1", "2")
    assert "2 jobs to do" in said and [line for line in said if line.startswith("[2/2]")]
    assert not (results / "submitted").exists()


@pytest.mark.slow
def test_jobs_of_a_killed_run_are_cancelled_before_the_next_submits_its_own(results, profile, slurm, tmp_path):
    """As when the machine goes down: the front process and the graph are killed, and its jobs go on by themselves."""
    results.mkdir(parents=True)
    (results / "wait").touch()
    (tmp_path / "front.py").write_text(FRONT)
    command = [sys.executable, str(tmp_path / "front.py"), str(paths.ROOT), str(results), str(profile)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "lib")}
    front = subprocess.Popen(command, env=environment)
    until(lambda: (results / "started").exists() or front.poll() is not None, "the start of the training")
    (graph,) = Path(f"/proc/{front.pid}/task/{front.pid}/children").read_text().split()
    os.killpg(int(graph), signal.SIGKILL)
    front.kill()
    front.wait()
    until(lambda: is_free(results / "lock"), "the end of the graph")
    left, name = jobs(slurm)[-1]
    assert name.startswith(f"{run.job_prefix(results)}_")
    (results / "wait").unlink()
    said = []
    assert run.regenerate("laptop", report=said.append, profile=profile) == 0, said
    assert [line for line in said if re.fullmatch(r"cancelling \d SLURM jobs? of this folder", line)]
    assert (results / "started").read_text().split() == ["started", "started"]  # once in each run
    assert (results / "weights").read_text().split()[0] != left and not jobs(slurm)

"""Run a sweep of two jobs on a real Slurm of this one machine, requeue a job in the middle, and check both runs.

    apt-get install slurmctld slurmd slurm-client munge
    python -m tests.cluster.slurm

It starts munged, slurmctld and slurmd of its own, as root, with all files in a temporary folder and listening on this
machine only, and ends them. An installed Slurm is not touched.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import tiny_sweep

CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
LAUNCHER = [
    "cluster=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2",
]


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A Slurm of this machine with two cores, which commands of this process and its children use."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(CONFIG.format(host=platform.node(), folder=folder))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    socket = folder / "munge.socket"
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket}"]
    munged += [f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")]
    daemons: list[subprocess.Popen] = []
    try:
        with (folder / "daemons.log").open("wb") as log:
            for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", platform.node()]):
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
                if command is munged:
                    wait_until(socket.exists, daemons)
        wait_until(lambda: "idle" in output("sinfo", "--noheader", "--format=%T"), daemons)
        yield
        # the last steps of jobs outlive what started them, and would outlive the daemons
        wait_until(lambda: not output("squeue", "--noheader").strip(), daemons)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def wait_until(holds: Callable[[], bool], daemons: list[subprocess.Popen]) -> None:
    """Wait for a condition while all daemons run."""
    while not holds():
        ended = [daemon.args for daemon in daemons if daemon.poll() is not None]
        if ended:
            raise RuntimeError(f"{ended} ended; see daemons.log")
        time.sleep(0.2)


def output(*command: str) -> str:
    """What a command prints; nothing if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def job_of(pid: int) -> str:
    """The Slurm job of a process, as ``scontrol`` names it."""
    environment = assignments(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))
    return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"


def restarts(job: str) -> int:
    """How often a job was queued again."""
    return int(assignments(output("scontrol", "show", "job", job).split()).get("Restarts", -1))


def assignments(words: list[str]) -> dict[str, str]:
    """Words such as ``a=b`` as a dictionary."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def main() -> int:
    """Returns 1 if the sweep lost something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "scontrol") if shutil.which(name) is None]
    if missing or os.geteuid():
        print(f"needs root and {', '.join(missing) or 'nothing else'}: see --help", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="slurm") as temporary:
        folder = Path(temporary)
        (folder / "sweep").mkdir()
        (folder / "slurm").mkdir()
        with slurm(folder / "slurm"):
            with tiny_sweep.started(folder / "sweep", *LAUNCHER, "prompt=a man", "seed=0,1") as sweep:
                run, owner = tiny_sweep.wait_for_a_run_in_progress(folder / "sweep", sweep)
                job = job_of(owner["pid"])
                subprocess.run(["scontrol", "requeue", job], check=True)
                print(f"requeued job {job}, which was making {run.name}", flush=True)
                code = sweep.wait()
            faults = tiny_sweep.faults(folder / "sweep", 2, interrupted=run)
            if restarts(job) != 1:
                faults.append(f"job {job} was restarted {restarts(job)} times")
        if code or faults:
            print((folder / "sweep" / "output.txt").read_text(), "\n".join(faults), f"exit code {code}", sep="\n")
            return 1
    print("both runs are finished, each made once")
    return 0


if __name__ == "__main__":
    sys.exit(main())

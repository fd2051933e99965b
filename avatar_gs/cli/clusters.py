"""Where a sweep runs: on this machine's cores, on Slurm or on Ray, by launchers of Hydra that are an extra."""

import importlib.util
import os
import platform
import shutil

from avatar_gs.core.errors import UserError, first_line

LAUNCHERS = {"local": "joblib", "slurm": "submitit", "ray": "ray"}
"""The presets ``cluster=…`` and the engine of each, which ``hydra-<engine>-launcher`` connects to Hydra."""


def require_launcher(cluster: str) -> None:
    """Check that the launcher of ``cluster=<cluster>`` is installed.

    Raises:
        UserError: if it is not, with the command that installs it.
    """
    engine = LAUNCHERS.get(cluster)
    if engine is None or _is_installed(f"hydra_plugins.hydra_{engine}_launcher"):
        return
    raise UserError(f"cluster={cluster} needs hydra-{engine}-launcher: pip install 'avatar-gs[cluster]'")


def require_engine(cluster: str) -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        UserError: for ``cluster=slurm`` where Slurm's commands are missing.
    """
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("cluster=slurm: there is no sbatch here; give the command on a login node of the Slurm cluster")


def enter(folder: str) -> None:
    """Make the folder in which the sweep was started the working folder: relative paths mean the same in every job.

    Raises:
        UserError: if this machine does not have it.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be entered on {platform.node()} ({error.strerror}): start sweeps in a folder that all "
            "machines of the cluster share"
        ) from error


def lost_job(error: Exception) -> UserError | None:
    """What to say if an engine itself failed, for instance because it lost a job; None for any other error."""
    engine = type(error).__module__.partition(".")[0]
    if isinstance(error, ConnectionError):
        return UserError(
            f"cluster=ray: no Ray cluster answers ({first_line(error)}); start one with `ray start --head`, or give "
            "hydra.launcher.ray.init.address=<host>:<port>"
        )
    if engine in LAUNCHERS.values():
        return UserError(
            f"a job of the sweep was lost ({type(error).__name__}: {first_line(error)}); the same command goes on with "
            "what is unfinished"
        )
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # hydra_plugins itself, which no package owns
        return False

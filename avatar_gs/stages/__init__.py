"""The stages of the product: ``stage=<name>`` imports a module of this package and calls ``run(settings)``."""

from dataclasses import dataclass
from enum import Enum


class RunUse(Enum):
    """What a stage does with the run ``outputs/<name>/``."""

    none = "none"
    make = "make"
    """Begins or resumes it; its settings must be the saved ones."""
    preview = "preview"
    """Takes its settings, which the command line may change freely, and saves none."""
    export = "export"
    """Needs a run that exists."""


@dataclass(frozen=True)
class Stage:
    """One stage of the command.

    Args:
        module: the module whose ``run(settings)`` is the stage.
        help: one line of ``--help``.
        run: what it does with the run's folder.
        experiment: the preset that it takes where the command names none.
    """

    module: str
    help: str
    run: RunUse = RunUse.none
    experiment: str = ""


STAGES = {
    "all": Stage("avatar_gs.stages.all", "learn the person in photos=, optimise, export (the default)", RunUse.make),
    "preview": Stage(
        "avatar_gs.stages.preview",
        "2D samples of the prior with the run's prompts and pose maps, in seconds",
        RunUse.preview,
    ),
    "embed": Stage(
        "avatar_gs.stages.embed", "learn the person in photos= (embed.fast=true: a first impression)", RunUse.make
    ),
    "optimize": Stage("avatar_gs.stages.optimize", "optimise the avatar's splats, or resume", RunUse.make),
    "export": Stage(
        "avatar_gs.stages.export",
        "write the files of an existing run: export.formats=[ply,html,mp4,spz,glb,mesh]",
        RunUse.export,
    ),
    "animate": Stage(
        "avatar_gs.stages.animate", "a video of an existing run's avatar in motion=<name or file>", RunUse.export
    ),
    "view": Stage(
        "avatar_gs.stages.view",
        "the page of an existing run at an address of this machine, until Ctrl-C",
        RunUse.export,
    ),
    "fetch": Stage("avatar_gs.stages.fetch", "download a prior (prior=sd15, sd21, sdxl or a hub name), or resume"),
    "body": Stage("avatar_gs.stages.body", "rebuild or check the body model"),
    "doctor": Stage("avatar_gs.stages.doctor", "what a report of a fault needs: versions, machine, a tiny avatar"),
}

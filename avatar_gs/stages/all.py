"""``stage=all``: learns the person, optimises and exports; what an earlier run has finished is not repeated."""

import logging
from pathlib import Path

from avatar_gs.core.runs import PAGE, RunFolder
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)

HOW_TO_OPEN = {
    "avatar.html": "double-click it: the avatar in your browser, also without a network",
    "avatar.ply": "the splats: drop the file on https://superspl.at/editor or open it in any splat viewer",
    "avatar.spz": "the splats in few bytes: Spark, three.js",
    "avatar.glb": "the splats as glTF: three.js, PlayCanvas, Babylon.js, Cesium",
    "mesh.glb": "a rigged mesh with a texture: Blender, game engines",
    "turntable.mp4": "a video of one turn",
}


def run(settings: Settings) -> None:
    """Make the avatar and its files, or report that they exist."""
    folder = RunFolder(settings.folder)
    if not settings.overwrite and folder.has_optimized(settings.optimize.steps) and is_exported(folder, settings):
        LOGGER.info(
            "%s is finished: nothing to do (a larger optimize.steps goes on with it, overwrite=true starts it from "
            "scratch)",
            folder.path,
        )
    else:
        from avatar_gs.stages.make import make_avatar  # seconds of imports, for which a finished run does not wait

        make_avatar(settings)
    print(where_to_look(folder.path))


def is_exported(folder: RunFolder, settings: Settings) -> bool:
    """Whether the run's files and its page exist, written with the same export settings."""
    record = folder.metrics().get("export", {})
    files = record.get("files", [])
    return (
        bool(files)
        and record.get("settings") == settings.plain()["export"]
        and record.get("pose", "") == settings.pose
        and all((folder / name).exists() for name in [*files, PAGE])
    )


def where_to_look(path: Path) -> str:
    """The message at the end of a run: each file and how to open it, and the address of its page, for one click."""
    lines = [f"\nThe avatar is in {path.resolve()}"]
    lines += [f"  {name:<15}{advice}" for name, advice in HOW_TO_OPEN.items() if (path / name).exists()]
    sheets = sorted((path / "previews").glob("*.png"))
    if sheets:
        lines.append(f"  {sheets[-1].relative_to(path)!s:<15}  training progress")
    if (path / PAGE).exists():
        lines.append(f"\nAll of it in one page: {(path / PAGE).resolve().as_uri()}")
    return "\n".join(lines)

"""``stage=all``: learn the person, optimise, export; what an earlier run has finished is not done again."""

import logging
from dataclasses import replace
from pathlib import Path

from avatar_gs.core.runs import RunFolder
from avatar_gs.settings import Settings

LOGGER = logging.getLogger(__name__)

HOW_TO_OPEN = {
    "avatar.html": "double-click it: the avatar in your browser, also without a network",
    "avatar.ply": "the splats: drop the file on https://superspl.at/editor or open it in any splat viewer",
    "turntable.mp4": "a video of one turn",
}


def run(settings: Settings) -> None:
    """Makes the avatar and its files, or says that they are there."""
    folder = RunFolder(settings.folder)
    if settings.overwrite or not folder.finished("optimize"):
        from avatar_gs.stages import embed, optimize  # seconds of imports, which a finished run does not wait for

        if settings.has_identity and (settings.overwrite or not folder.finished("embed")):
            embed.run(settings)
            settings = replace(settings, overwrite=False)  # it has begun anew
        optimize.run(settings)
    if is_exported(folder, settings):
        LOGGER.info("%s is finished: nothing to do (overwrite=true makes it anew)", folder.path)
    else:
        from avatar_gs.stages import export

        export.run(settings)
    print(where_to_look(folder.path))


def is_exported(folder: RunFolder, settings: Settings) -> bool:
    """Whether the run's files are there, written with the same export settings."""
    record = folder.metrics().get("export", {})
    files = record.get("files", [])
    return (
        bool(files)
        and record.get("settings") == settings.plain()["export"]
        and all((folder / name).exists() for name in files)
    )


def where_to_look(path: Path) -> str:
    """What to tell the user at the end: each file, and how to open it."""
    lines = [f"\nThe avatar is in {path.resolve()}"]
    lines += [f"  {name:<15}{advice}" for name, advice in HOW_TO_OPEN.items() if (path / name).exists()]
    sheets = sorted((path / "previews").glob("*.png"))
    if sheets:
        lines.append(f"  {sheets[-1].relative_to(path)!s:<15}  how it came about")
    return "\n".join(lines)

"""Settings that a run with ``init`` inherits from the run whose avatar it starts from. Does not import torch."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from avatar_gs.core import runs
from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder
from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.prior.prompts import SOMEBODY, with_placeholder
from avatar_gs.settings import OUTPUTS, Settings, home_expanded


def run_folder(init: str, outputs: Path = OUTPUTS) -> str:
    """The folder that ``init`` means, as a path or below ``outputs``, preferably one that holds an avatar; of an
    ``avatar.ply`` the folder of the run that wrote it.

    Paths below the working folder become relative, so that a run has one name.

    Raises:
        UserError: for a file that is not the export of a run in its folder.
    """
    given = home_expanded(init)
    choices = [given, outputs / given]
    if file := next((path for path in choices if path.is_file()), None):
        _check_is_export(init, file)
        given = file.parent
        choices = [given]
    rated = [[path for path in choices if RunFolder(path).holds_avatar()], [path for path in choices if path.is_dir()]]
    path = next((found[0] for found in rated if found), given)
    here = Path.cwd()
    return (path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path).as_posix()


def _check_is_export(init: str, file: Path) -> None:
    """Raise UserError unless a file is the ``avatar.ply`` of the run in its folder.

    A PLY file has no joints: how its splats follow the body is in the run's checkpoint.
    """
    if not RunFolder(file.parent).holds_avatar() or not (file.parent / runs.CONFIG_FILE).is_file():
        raise UserError(
            f"init={init}: a file of splats does not say how they follow a body; give the folder of the run that wrote "
            f"it (avatar.ply next to {runs.CONFIG_FILE} and {runs.CHECKPOINTS}/)"
        )
    recorded = RunFolder(file.parent).metrics().get("export", {}).get("sha256", {})
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if recorded.get(file.name) != digest:
        raise UserError(
            f"init={init}: this is not the file that the run in its folder wrote, or it was edited since; give the "
            f"folder ({file.parent}) to start from the run's own avatar, or export it again (stage=export)"
        )


def require_other_run(settings: Settings) -> None:
    """Raise UserError if a run would start from its own avatar."""
    if Path(settings.init).resolve() == settings.folder.resolve():
        raise UserError(
            f"init={settings.init} is this run itself (name={settings.name}): give the edited avatar another name=…"
        )


def inherit_settings(settings: Settings, *, body_given: bool) -> Settings:
    """``settings`` completed from the run ``init``: its prompt as ``source_prompt``, its person and its body.

    ``<id>`` stays in the source prompt only if both avatars are of the same person.

    Raises:
        UserError: if the folder is missing, holds no avatar or no readable settings, or has another body than is given.
    """
    saved = _saved(settings.init)
    settings = _with_body(settings, saved.get("body") or {}, body_given)
    prompt, photos, identity = (str(saved.get(key) or "") for key in ("prompt", "photos", "identity"))
    if photos or identity:
        settings, same_person = _with_person(settings, photos, identity)
        prompt = with_placeholder(prompt)
        prompt = prompt if same_person else prompt.replace(PLACEHOLDER, SOMEBODY)
    return replace(settings, source_prompt=prompt)


def _saved(init: str) -> dict[str, Any]:
    folder = RunFolder(init)
    file = folder / runs.CONFIG_FILE
    if not folder.path.is_dir():
        raise UserError(
            f"init={init}: no such folder; expected that of a run, such as init={OUTPUTS}/anna, or its name"
        )
    if not folder.holds_avatar() or not file.is_file():
        raise UserError(
            f"init={init} holds no avatar (no {folder.avatar_checkpoint.relative_to(folder.path)} and {file.name}); "
            "expected the folder of a run that has one"
        )
    try:
        saved = runs.read_config(folder.path)
    except UserError as error:
        raise UserError(f"init={init}: {error}") from error
    if not isinstance(saved.get("body") or {}, dict):
        raise UserError(f"init={init}: {file} is damaged (no settings in it)")
    return saved


def _with_body(settings: Settings, saved: dict[str, Any], given: bool) -> Settings:
    path, betas = saved.get("path"), list(saved.get("betas") or [])
    if not given:
        return replace(settings, body=replace(settings.body, path=path, betas=betas))
    if (settings.body.path, settings.body.betas) != (path, betas):
        raise UserError(
            f"body.path={settings.body.path} body.betas={settings.body.betas}: the avatar of init={settings.init} is "
            f"bound to body.path={path} body.betas={betas}; leave them out to keep its body"
        )
    return settings


def _with_person(settings: Settings, photos: str, identity: str) -> tuple[Settings, bool]:
    """The settings with the other run's person if they have none, and whether both runs are of the same person."""
    learned = Path(settings.init) / runs.IDENTITY_FILE
    if not settings.has_identity:
        if learned.is_file():
            return replace(settings, identity=learned.as_posix()), True
        return replace(settings, photos=photos, identity=identity), True
    same = (settings.photos, settings.identity) == (photos, identity) or settings.identity == learned.as_posix()
    return settings, same

"""suite=likeness: a finished avatar compared with the user's photos, which have no known truth."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from avatar_gs.body.model import load_body
from avatar_gs.body.pose import a_pose
from avatar_gs.core.console import progress
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import RGBImage
from avatar_gs.core.runs import RunFolder
from avatar_gs.identity.photos import load_photos
from avatar_gs.lab.metrics.avatar import render_views, to_bytes
from avatar_gs.lab.metrics.clip import PACKAGED, load_clip
from avatar_gs.lab.metrics.faces import SAME_PERSON, load_faces
from avatar_gs.lab.metrics.perceptual import load_lpips
from avatar_gs.lab.metrics.photos import PhotoMetrics, by_view
from avatar_gs.lab.settings import LabSettings
from avatar_gs.lab.suites.report import in_words, joined, markdown_table, number
from avatar_gs.lab.suites.suite import Figures, Suite
from avatar_gs.render.cameras import fixed_views
from avatar_gs.stages import init_run
from avatar_gs.training.init import load_init
from avatar_gs.types import Framing

SIZE = 256
AZIMUTHS = {"front": 0.0, "half left": 45.0, "left": 90.0, "back": 180.0, "right": -90.0, "half right": -45.0}
"""Degrees; left is the avatar's own."""
FRAMINGS = (Framing.HEAD, Framing.UPPER)
VIEWS = [(framing, side) for framing in FRAMINGS for side in AZIMUTHS]
SHEET_PHOTOS = 8


class LikenessSuite(Suite):
    """The run ``settings.name`` compared with ``settings.photos``."""

    title = "An avatar compared with photos"

    def evaluate(self) -> tuple[Figures, RGBImage]:
        """The figures, and a sheet of both.

        Raises:
            UserError: there is no such run or photo, or a judge's weights cannot be loaded.
        """
        settings, config, embed = self.settings, self.settings.lab.evaluate, self.settings.embed
        if not settings.name or not settings.photos:
            raise UserError(
                "suite=likeness compares a finished run with photos: give name=<its folder below outputs/> and "
                "photos=<folder, glob or image>"
            )
        if not RunFolder(settings.folder).holds_avatar():
            raise UserError(
                f"suite=likeness: {settings.folder} holds no avatar: make one first, or give another name=…"
            )
        judges = PhotoMetrics(
            load_clip(config.clip, self.prior.device), load_lpips(config.lpips), load_faces(config.faces)
        )
        photos = load_photos(settings.photos, SIZE, remove_background=embed.remove_background, min_size=embed.min_size)
        with progress("draw the avatar"):
            renders = _renders(settings)
        names = [f"{framing.value}/{side}" for framing, side in VIEWS]
        pixels = photos.images.numpy()
        with progress("compare"):
            measured = by_view(renders, pixels, names, judges)
        figures = {
            "run": settings.folder.as_posix(),
            "photos": list(photos.names),
            "judge": judges.clip.name,
            "measures": measured,
        }
        return figures, self._sheet(renders, pixels)

    def _sheet(self, renders: Float[np.ndarray, "V S S 3"], photos: Float[np.ndarray, "N S S 3"]) -> RGBImage:
        columns = len(AZIMUTHS)
        rows = [[*to_bytes(renders[start : start + columns])] for start in range(0, len(renders), columns)]
        labels = [*(framing.value for framing in FRAMINGS), "photos"]
        return self.grid([*rows, [*to_bytes(photos[:SHEET_PHOTOS])]], labels, list(AZIMUTHS))

    @classmethod
    def report(cls, results: dict[str, Any]) -> str:
        facts = f"- command: `{results['command']}`\n- machine: {in_words(results['machine'])}"
        return joined([f"# {cls.title}", facts, *cls.sections(results)])

    @classmethod
    def sections(cls, results: dict[str, Any]) -> list[str]:
        figures = results["figures"]
        measured = figures["measures"]
        names = {
            "similarity": f"similarity ({figures['judge']})",
            "LPIPS": "LPIPS",
            "face": "face similarity (SFace)",
        }
        columns = ["view"] + [f"{names[name]}, {what}" for name in measured for what in ("mean", "nearest")]
        rows = [[view, *_cells(measured, view)] for view in next(iter(measured.values()))["views"]]
        rows += [
            ["all views", *_cells(measured, None, "mean")],
            ["photos among themselves", *_cells(measured, None, "photos")],
        ]
        caution = (
            " The packaged scorer knows the mini world's people only: of real photos it says nothing; give "
            "evaluate.clip=<a CLIP>."
            if figures["judge"] == PACKAGED
            else ""
        )
        text = (
            f"{figures['run']} compared with {len(figures['photos'])} photos: the mean over all photos, and the "
            "nearest one. Similarities are cosines (more is more alike), LPIPS is a distance. Photos differ in pose, "
            "clothes and background, so the last row, not 1 (or 0), is what to compare with. A face is compared where "
            f"both images show one (–: none seen); cosines above {SAME_PERSON:g} mean one person (OpenCV).{caution}"
        )
        return [text, markdown_table(columns, rows)]


def _renders(settings: LabSettings) -> Float[np.ndarray, "V S S 3"]:
    """The run's avatar on grey, on the body that it was made on."""
    whole = replace(settings, init=init_run.run_folder(settings.name))
    whole = init_run.inherit_settings(whole, body_given=False)
    body = load_body(whole.body, "cpu")
    posed = body.pose(a_pose())
    gaussians = load_init(whole.training, body).model.pose(posed)
    azimuths = [AZIMUTHS[side] for _, side in VIEWS]
    return render_views(
        gaussians, fixed_views(posed, [framing for framing, _ in VIEWS], azimuths, SIZE).cameras
    ).on_grey()


def _cells(measured: dict[str, Any], view: str | None, figure: str = "") -> list[str]:
    cells = []
    for row in measured.values():
        if row is None:
            cells += ["not given"] * 2
        elif view is None:
            cells += [number(row[figure], 3), ""]
        else:
            found = row["views"][view]
            cells += ["–"] * 2 if found is None else [number(found["mean"], 3), number(found["nearest"], 3)]
    return cells

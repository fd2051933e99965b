"""A playground from settings to files: every method from the same start."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatar_gs.body.model import Body
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import write_png
from avatar_gs.core.io import write_json
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS, GuidanceConfig
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.presets import named_preset
from avatar_gs.identity.pixels import Unusable, decode, on_grey, square
from avatar_gs.lab.playground import figures
from avatar_gs.lab.playground.config import FieldKind, Init
from avatar_gs.lab.playground.fields import build_canvas
from avatar_gs.lab.playground.loop import Objective, Play, View, chosen_view, play
from avatar_gs.lab.settings import LabSettings
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.prompts import run_prompts

LOGGER = logging.getLogger(__name__)

SCHEMA = 1
STRIP, VIDEO, FINAL = "strip.png", "video.mp4", "final.png"
CURVES_PNG, CURVES_JSON, COMPARISON = "curves.png", "curves.json", "comparison.png"
FIELD_WORDS = {
    FieldKind.epl: "latent pixels",
    FieldKind.ehl: "a hash grid of latents",
    FieldKind.ehc: "a hash grid of colours",
    FieldKind.rgb: "pixels",
}


def chosen_methods(settings: LabSettings) -> dict[str, GuidanceConfig]:
    """The guidance settings of each requested method, by its name.

    Raises:
        UserError: for an editing method without an image or source prompt.
    """
    config, given = settings.lab.playground, settings.guidance
    chosen = {}
    for method in config.methods or [given.method]:
        own = config.own_settings and method != given.method
        chosen[method] = named_preset(method) if own else replace(given, method=method)
        if not chosen[method].edits:
            continue
        if config.init is not Init.image:
            raise UserError(
                f"{method} edits an image: add playground.init=image playground.image=<file> "
                'playground.source_prompt="what it shows"'
            )
        if not config.source_prompt.strip():
            raise UserError(f'{method} needs a description of the image: add playground.source_prompt="what it shows"')
    return chosen


def load_image(source: str, size: int) -> Float[Tensor, "1 size size 3"]:
    """The largest centred square of a JPEG, PNG or WebP file, resized, in [0, 1]; on grey where it is transparent.

    Raises:
        UserError: if the file is missing or not an image.
    """
    try:
        image, alpha = decode(Path(source).expanduser().read_bytes())
    except FileNotFoundError:
        raise UserError(f"playground.image={source}: no such file; expected a JPEG, PNG or WebP image") from None
    except OSError as error:
        raise UserError(
            f"playground.image={source}: cannot be read ({error.strerror}); expected a JPEG, PNG or WebP image"
        ) from error
    except Unusable as reason:
        raise UserError(f"playground.image={source}: {reason}; expected a JPEG, PNG or WebP image") from reason
    pixels = np.asarray(square(on_grey(image, alpha), size)).copy()
    return torch.from_numpy(pixels).float()[None] / 255


def play_all(settings: LabSettings, prior: StableDiffusionPrior, body: Body, folder: Path) -> None:
    """Run every chosen method and write ``folder``; after Ctrl-C, the results so far.

    ``strip.png``, ``video.mp4`` and ``final.png`` (with several methods each in a folder of its own), ``curves.png``,
    ``curves.json`` and, with several methods, ``comparison.png``.

    Raises:
        UserError: if the image file cannot be read, or the optimised image is no longer finite.
        KeyboardInterrupt: after Ctrl-C, once all is written.
    """
    config = settings.lab.playground
    guidances = chosen_methods(settings)
    image, source = None, None
    if config.image:
        image = load_image(config.image, prior.image_size)
        with torch.no_grad():
            source = prior.encode_images(image.to(prior.device))
    view = chosen_view(config, settings.prior.prompts, body, prior.image_size)
    output = Output(folder, settings, figures.cell_size(prior.image_size))
    output.clear()
    plays: dict[str, Play] = {}
    for name, guidance in guidances.items():
        conditions = encode_texts(replace(settings, guidance=guidance), prior, view)
        canvas = build_canvas(config, prior, settings.seed, image)
        objective = Objective(build_guidance(guidance, prior, conditions), conditions, view, source)
        began = time.perf_counter()
        plays[name] = result = play(canvas, objective, config, settings.seed)
        seconds, steps = time.perf_counter() - began, len(result.curves["t"])
        LOGGER.info("%s: %d steps of %.3f s, %d prior calls", name, steps, seconds / steps, result.prior_calls)
        output.write(folder / name if len(guidances) > 1 else folder, result, plays)
        if result.interrupted:
            raise KeyboardInterrupt("the results so far are written; the same command starts from scratch")


def encode_texts(settings: LabSettings, prior: StableDiffusionPrior, view: View) -> TextConditions:
    """The encoded prompts of the view, including the extra ones that the method needs."""
    prompt = run_prompts(settings.training, prior)[view.bucket]
    if settings.guidance.edits:
        # the image shows the run's person only if its own prompt says so
        shown = replace(settings, prompt=settings.lab.playground.source_prompt, photos="", identity="")
        source = run_prompts(shown.training, prior)[view.bucket].positive
        prompt = replace(prompt, extra={**prompt.extra, "source": source})
    return TextConditions.encode(prior, {view.bucket: prompt})


@dataclass(frozen=True)
class Output:
    """Writes a playground's files.

    Args:
        cell: side of the sheets' cells in pixels.
    """

    folder: Path
    settings: LabSettings
    cell: int

    def clear(self) -> None:
        """Remove the files of an earlier playground, and nothing else."""
        for name in (STRIP, VIDEO, FINAL, CURVES_PNG, CURVES_JSON, COMPARISON):
            (self.folder / name).unlink(missing_ok=True)
        for method in METHODS:
            for name in (STRIP, VIDEO, FINAL):
                (self.folder / method / name).unlink(missing_ok=True)

    def write(self, own: Path, result: Play, plays: dict[str, Play]) -> None:
        """One method's files in ``own``, and those of all methods so far in the playground's folder."""
        field, prompt = self.settings.lab.playground.field, self.settings.prompt
        title = f"{result.method}, {field.name}: {prompt}"
        write_png(own / STRIP, figures.strip(result.frames, title, self.cell))
        write_png(own / FINAL, result.frames[-1].image)
        figures.write_video(own / VIDEO, result.frames)
        title = f"{FIELD_WORDS[field]}: {prompt}"
        curves = figures.plot_curves({name: play.curves for name, play in plays.items()}, title)
        write_png(self.folder / CURVES_PNG, figures.to_image(curves))
        write_json(self.folder / CURVES_JSON, self._plain(plays))
        if len(plays) > 1:
            frames = {name: play.frames for name, play in plays.items()}
            write_png(self.folder / COMPARISON, figures.comparison(frames, title, self.cell))

    def _plain(self, plays: dict[str, Play]) -> dict[str, Any]:
        """``curves.json``; NaN becomes null."""
        methods = {}
        for name, result in plays.items():
            curves = {key: [None if v != v else v for v in values] for key, values in result.curves.items()}
            methods[name] = {
                "prior_calls": result.prior_calls,
                "finished": not result.interrupted,
                "curves": curves,
            }
        return {"schema": SCHEMA, "settings": self.settings.plain(), "methods": methods}

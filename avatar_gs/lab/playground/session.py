"""A playground from settings to files: every method on the same start, and what is written of it."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avatar_gs.body.model import Body
from avatar_gs.core.errors import UserError
from avatar_gs.core.images import write_png
from avatar_gs.core.io import write_json
from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import METHODS, GuidanceConfig
from avatar_gs.guidance.distill import build_guidance
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.playground import strip
from avatar_gs.lab.playground.config import FieldKind, Init
from avatar_gs.lab.playground.curves import curves_picture
from avatar_gs.lab.playground.fields import build_canvas
from avatar_gs.lab.playground.picture import load_picture
from avatar_gs.lab.playground.run import Play, play
from avatar_gs.lab.playground.view import View, chosen_view
from avatar_gs.lab.settings import LabSettings
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.training.prompts import run_prompts

LOGGER = logging.getLogger(__name__)

SCHEMA = 1
STRIP, VIDEO, FINAL = "strip.png", "video.mp4", "final.png"
CURVES_PNG, CURVES_JSON, COMPARISON = "curves.png", "curves.json", "comparison.png"


def chosen_methods(settings: LabSettings) -> dict[str, GuidanceConfig]:
    """The settings of each method to be played, by its name.

    Raises:
        UserError: an editing method has nothing to edit, or does not know what it is.
    """
    config, given = settings.lab.playground, settings.guidance
    chosen = {}
    for method in config.methods or [given.method]:
        own = config.own_settings and method != given.method
        chosen[method] = named_preset(method) if own else replace(given, method=method)
        if not chosen[method].edits:
            continue
        if config.init is not Init.picture:
            raise UserError(
                f"{method} changes a picture that is there: add playground.init=picture "
                'playground.picture=<file> playground.source_prompt="what it shows"'
            )
        if not config.source_prompt.strip():
            raise UserError(f'{method} needs to know what is there: add playground.source_prompt="what it shows"')
    return chosen


def play_all(settings: LabSettings, prior: StableDiffusionPrior, body: Body, folder: Path) -> None:
    """Plays every chosen method and writes ``folder``; after Ctrl-C, what there is so far.

    ``strip.png``, ``video.mp4`` and ``final.png`` (with several methods each in a folder of its own), ``curves.png``,
    ``curves.json`` and, with several methods, ``comparison.png``.

    Raises:
        UserError: for a picture that cannot be read, or one that is no longer finite.
        KeyboardInterrupt: after Ctrl-C, once all is written.
    """
    config = settings.lab.playground
    guidances = chosen_methods(settings)
    picture = load_picture(config.picture, prior.image_size) if config.picture else None
    view = chosen_view(config, settings.prior.prompts, body, prior.image_size)
    source = None
    if picture is not None:
        with torch.no_grad():
            source = prior.encode_images(picture.to(prior.device))
    remove_earlier(folder)
    plays: dict[str, Play] = {}
    for name, guidance_config in guidances.items():
        conditions = encode_texts(replace(settings, guidance=guidance_config), prior, view)
        canvas = build_canvas(config, prior, settings.seed, picture)
        guidance = build_guidance(guidance_config, prior, conditions)
        began = time.perf_counter()
        result = play(canvas, guidance, conditions, view, config, settings.seed, source)
        plays[name] = result
        seconds, steps = time.perf_counter() - began, len(result.curves["t"])
        LOGGER.info("%s: %d steps of %.3f s, %d prior calls", name, steps, seconds / steps, result.prior_calls)
        write_play(folder / name if len(guidances) > 1 else folder, result, settings, prior.image_size)
        write_summary(folder, plays, settings, prior.image_size)
        if result.interrupted:
            raise KeyboardInterrupt("what was drawn is written, and the same command begins anew")


def encode_texts(settings: LabSettings, prior: StableDiffusionPrior, view: View) -> TextConditions:
    """The prompts of the view, and what the method asks for beside them."""
    prompt = run_prompts(settings, prior)[view.bucket]
    if settings.guidance.edits:
        # the picture is of the run's person only if its own prompt says so
        shown = replace(settings, prompt=settings.lab.playground.source_prompt, photos="", identity="")
        source = run_prompts(shown, prior)[view.bucket].positive
        prompt = replace(prompt, extra={**prompt.extra, "source": source})
    return TextConditions.encode(prior, {view.bucket: prompt})


def write_play(folder: Path, result: Play, settings: LabSettings, image_size: int) -> None:
    """One method's pictures."""
    title = f"{result.method}, {settings.lab.playground.field.name}: {settings.prompt}"
    write_png(folder / STRIP, strip.strip(result.frames, title, strip.cell_size(image_size)))
    write_png(folder / FINAL, result.frames[-1].image)
    strip.write_video(folder / VIDEO, result.frames)


def write_summary(folder: Path, plays: dict[str, Play], settings: LabSettings, image_size: int) -> None:
    """What is written of all methods together, as far as they have come."""
    title = f"{FIELD_WORDS[settings.lab.playground.field]}: {settings.prompt}"
    write_png(folder / CURVES_PNG, curves_picture({name: p.curves for name, p in plays.items()}, title))
    write_json(folder / CURVES_JSON, _plain(plays, settings))
    if len(plays) > 1:
        frames = {name: p.frames for name, p in plays.items()}
        write_png(folder / COMPARISON, strip.comparison(frames, title, strip.cell_size(image_size)))


FIELD_WORDS = {
    FieldKind.epl: "latent pixels",
    FieldKind.ehl: "a hash grid of latents",
    FieldKind.ehc: "a hash grid of colours",
    FieldKind.rgb: "pixels",
}


def remove_earlier(folder: Path) -> None:
    """Removes what an earlier playground left there, and nothing else."""
    for name in (STRIP, VIDEO, FINAL, CURVES_PNG, CURVES_JSON, COMPARISON):
        (folder / name).unlink(missing_ok=True)
    for method in METHODS:
        for name in (STRIP, VIDEO, FINAL):
            (folder / method / name).unlink(missing_ok=True)


def _plain(plays: dict[str, Play], settings: LabSettings) -> dict[str, Any]:
    """Curves as JSON has them: NaN, where a method reported nothing, becomes null."""
    return {
        "schema": SCHEMA,
        "settings": settings.plain(),
        "methods": {
            name: {
                "prior_calls": result.prior_calls,
                "finished": not result.interrupted,
                "curves": {
                    key: [None if value != value else value for value in values]
                    for key, values in result.curves.items()
                },
            }
            for name, result in plays.items()
        },
    }

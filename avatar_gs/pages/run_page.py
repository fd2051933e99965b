"""The page of a run, ``index.html`` in its folder: the avatar, how it was made, and how to make it again."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from avatar_gs import __version__
from avatar_gs.core.runs import CONFIG_FILE, PAGE, POSTER
from avatar_gs.pages import html
from avatar_gs.pages.charts import chart
from avatar_gs.pages.command import PROGRAM, overrides, shortest
from avatar_gs.pages.html import isolated, text
from avatar_gs.pages.images import photo_thumbnails, spread
from avatar_gs.pages.run import Run, State, number, string

SHEETS = 12
FILES = {
    "avatar.html": "the avatar, alone in a page",
    "avatar.ply": "the splats, for any splat viewer",
    "avatar.spz": "the splats, compressed",
    "avatar.glb": "the splats in glTF, with skeleton",
    "mesh.glb": "a rigged mesh with a texture",
    "turntable.mp4": "a video of one turn",
    "identity.safetensors": "the person, learned from photos",
    "log.txt": "what the program said",
}
CURVES = {"guidance/grad_norm": "Norm of the guidance gradient", "splats": "Splats"}


def run_page(run: Run, runs: Path) -> str:
    """The page as HTML.

    Args:
        run: the run.
        runs: the folder of the gallery, which the page links to.
    """
    config = run.config
    values = {
        "title": text(f"{run.folder.name}: {run.title}"),
        "name": isolated(run.folder.name),
        "badge": badge(run),
        "gallery": "../" * len(run.folder.relative_to(runs).parts) + PAGE,
        "stage": _stage(run),
        "prompt": text(run.prompt) or '<span class="faint">no prompt</span>',
        "chips": "".join(f"<li>{isolated(chip)}</li>" for chip in _chips(run)),
        "photos": _photos(run),
        "files": _files(run),
        "command": _command(config),
        "previews": _previews(run),
        "motions": _motions(run),
        "curves": _curves(run),
        "figures": _table(_figures(run)) or '<p class="faint">None yet.</p>',
        "changed": _changed(run),
        "config": text(_saved(run)),
        "version": text(__version__),
    }
    return html.page("run.html", "pages.css", "run.js", values)


def badge(run: Run) -> str:
    """A mark of a run that is not finished."""
    return "" if run.state is State.finished else f'<span class="badge">{run.state.value}</span>'


def _stage(run: Run) -> str:
    poster = f'src="{POSTER}" alt="The avatar from the front"'
    if run.has("avatar.html"):
        still = f'<img class="still" {poster}>' if run.has(POSTER) else ""
        frame = (
            '<iframe src="avatar.html#title=0" title="The avatar in 3D" allow="fullscreen; clipboard-write"></iframe>'
        )
        return f'{still}{frame}<a class="larger" href="avatar.html">Open alone</a>'
    return f'<img class="still shown" {poster}>' if run.has(POSTER) else ""


def _chips(run: Run) -> list[str]:
    optimized = run.stages.get("optimize", {})
    steps = number(optimized.get("steps"))
    named = [("seed", run.seed), ("prior", run.setting("prior.name")), ("guidance", run.setting("guidance.method"))]
    chips = [f"{name} {value}" for name, value in named if value]
    chips += [f"{steps:,.0f} steps"] if steps is not None else []
    chips += [f"from {run.setting('init')}"] if run.setting("init") else []
    return [*chips, run.day] if run.day else chips


def _photos(run: Run) -> str:
    source = run.setting("photos")
    if not source:
        return ""
    thumbnails = photo_thumbnails(source)
    images = "".join(
        f'<li><img src="{address}" alt="{text(name)}" title="{text(name)}"></li>' for name, address in thumbnails
    )
    listed = f'<ul class="photos">{images}</ul>' if images else f'<p class="faint">{isolated(source)}</p>'
    return f"<section><h3>Photos</h3>{listed}</section>"


def _files(run: Run) -> str:
    rows = []
    for name, meaning in FILES.items():
        if run.has(name):
            size = (run.folder / name).stat().st_size
            rows.append(f'<dt><a href="{name}">{name}</a></dt><dd>{meaning}, {_bytes(size)}</dd>')
    return f'<section><h3>Files</h3><dl class="files">{"".join(rows)}</dl></section>' if rows else ""


def _command(config: Any) -> str:
    """The words of the command, each on its own against text that runs from right to left."""
    return " ".join(f"<bdi>{text(shlex.quote(word))}</bdi>" for word in [PROGRAM, *overrides(config)])


def _previews(run: Run) -> str:
    figures = []
    for path in spread(run.previews(), SHEETS):
        step = path.stem.removeprefix("step_").lstrip("0") or "0"
        address = html.link(path, run.folder)
        figures.append(
            f'<figure><a href="{address}"><img src="{address}" alt="Renders and pose maps at step {text(step)}" '
            f'loading="lazy"></a><figcaption>step {text(step)}</figcaption></figure>'
        )
    return _strip("Previews over time", figures)


def _motions(run: Run) -> str:
    playing = 'controls loop muted playsinline preload="metadata"'
    figures = [
        f'<figure><video src="{html.link(path, run.folder)}" {playing}></video>'
        f"<figcaption>{isolated(path.stem)}</figcaption></figure>"
        for path in run.motions()
    ]
    return _strip("Motions", figures)


def _strip(title: str, figures: Sequence[str]) -> str:
    if not figures:
        return ""
    return f'<h2>{title}</h2><div class="strip" tabindex="0" role="group" aria-label="{title}">{"".join(figures)}</div>'


def _curves(run: Run) -> str:
    """The curves that say how the run went, and folded up those of the method's parts."""
    stored = run.stages.get("optimize", {}).get("curves")
    stored = stored if isinstance(stored, dict) else {}
    steps = [step or 0.0 for step in _numbers(stored.get("steps"))]
    series = stored.get("values")
    series = {str(name): _numbers(values) for name, values in series.items()} if isinstance(series, dict) else {}
    drawn = [_panel(title, steps, series[name]) for name, title in CURVES.items() if name in series]
    others = {name: values for name, values in sorted(series.items()) if name not in CURVES}
    drawn += [_panel(_title(name), steps, values) for name, values in others.items() if name.startswith("loss/")]
    embed = run.stages.get("embed", {})
    losses = _numbers(embed.get("loss_curve"))
    total = number(embed.get("steps")) or float(len(losses))
    places = [(index + 1) * total / len(losses) for index in range(len(losses))]
    drawn.append(_panel("Learning the person: loss", places, losses))
    more = "".join(_panel(_title(name), steps, values) for name, values in others.items() if "loss/" not in name)
    folded = (
        f'<details><summary>Parts of the guidance</summary><div class="charts">{more}</div></details>' if more else ""
    )
    shown = "".join(drawn)
    return f'<h2>Curves</h2><div class="charts">{shown}</div>{folded}' if shown or more else ""


def _panel(title: str, steps: Sequence[float], values: Sequence[float | None]) -> str:
    image = chart(title, steps, values)
    return f'<figure class="panel"><h3>{isolated(title)}</h3>{image}</figure>' if image else ""


def _title(name: str) -> str:
    """The name of a curve in words: ``loss/scale`` is ``Loss: scale``."""
    return name.replace("/", ": ").replace("_", " ").capitalize()


def _numbers(values: Any) -> list[float | None]:
    return [number(value) for value in values] if isinstance(values, list) else []


def _figures(run: Run) -> list[tuple[str, str]]:
    """Names and values of the run's figures, as far as they are numbers."""
    found: list[tuple[str, str]] = []
    optimized = run.stages.get("optimize", {})
    for key, name in (("splats", "Splats"), ("steps", "Steps"), ("skipped_steps", "Skipped steps")):
        value = number(optimized.get(key))
        if value is not None:
            found.append((name, f"{value:,.0f}"))
    seconds, steps = optimized.get("seconds_per_step"), number(optimized.get("steps"))
    if isinstance(seconds, dict):
        parts = {str(part): number(value) for part, value in seconds.items()}
        total = parts.pop("total", None)
        if total is not None:
            whole = f" ({_duration(total * steps)} in all)" if steps else ""
            found.append(("Seconds a step", f"{total:.2f}{whole}"))
        listed = [f"{part.replace('_', ' ')} {value:.2f}" for part, value in parts.items() if value is not None]
        if listed:
            found.append(("of which", ", ".join(listed)))
    calls = number(optimized.get("prior_calls"))
    if calls is not None:
        found.append(("Calls of the prior", f"{calls:,.0f}"))
    found += _memory("Peak memory", optimized)
    embed = run.stages.get("embed", {})
    learned, photos = number(embed.get("seconds")), embed.get("photos")
    if learned is not None and isinstance(photos, list):
        found.append(("Learning the person", f"{len(photos)} photos in {_duration(learned)}"))
    return found


def _memory(name: str, record: Any) -> list[tuple[str, str]]:
    peak = record.get("peak_memory_mib")
    values = {str(where): number(value) for where, value in peak.items()} if isinstance(peak, dict) else {}
    parts = [f"{value / 1024:.2f} GiB ({where})" for where, value in values.items() if value is not None]
    return [(name, ", ".join(parts))] if parts else []


def _changed(run: Run) -> str:
    choice = shortest(run.config)
    rows = [(group, name) for group, name in choice.presets.items()]
    rows += [(key, ", ".join(map(string, value)) if isinstance(value, list) else string(value)) for key, value in
             choice.settings.items() if key != "prompt"]  # fmt: skip
    return _table(rows) or '<p class="faint">None but the prompt.</p>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{text(name)}</th><td>{isolated(value)}</td></tr>' for name, value in rows)
    return f'<table class="figures">{body}</table>' if body else ""


def _saved(run: Run) -> str:
    """The settings as the file has them; as they were read if the file has gone."""
    try:
        return (run.folder / CONFIG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return yaml.safe_dump(dict(run.config), allow_unicode=True, sort_keys=False)


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(size / 1e3, 0.1):.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

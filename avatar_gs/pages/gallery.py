"""The gallery, ``index.html`` in the folder of the runs: a card a run, and sweeps as a grid of what differs."""

from collections.abc import Sequence
from pathlib import Path

from avatar_gs import __version__
from avatar_gs.core.runs import PAGE, POSTER, TURNTABLE
from avatar_gs.pages import html
from avatar_gs.pages.html import isolated, text
from avatar_gs.pages.run import Run
from avatar_gs.pages.run_page import badge

Axes = dict[str, str]
"""What the command names a sweep's run by: its settings that differ, and their values as the folder's name has them."""


def gallery(runs: Sequence[Run], folder: Path) -> str:
    """The page as HTML.

    Args:
        runs: in the order in which they are shown.
        folder: which the page is written to.
    """
    sections = []
    single = [run for run in runs if run.folder.parent == folder]
    if single:
        cards = "".join(_card(run, folder) for run in single)
        sections.append(f'<section><ul class="cards">{cards}</ul></section>')
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        if run.folder.parent != folder:
            groups.setdefault(run.folder.parent, []).append(run)
    sections += [_group(parent, members, folder) for parent, members in groups.items()]
    count = f"{len(runs)} avatar" + ("" if len(runs) == 1 else "s")
    empty = '<p class="faint">None yet.</p>'
    values = {"count": count, "sections": "\n".join(sections) or empty, "version": text(__version__)}
    return html.page("gallery.html", "pages.css", "gallery.js", values)


def axes_of(name: str) -> Axes:
    """The settings that the name of a sweep's folder holds (``seed=0,optimize.steps=50``); {} if it is none."""
    parts = [part.partition("=") for part in name.split(",")]
    return {key: value for key, _, value in parts} if all(key and sign for key, sign, _ in parts) else {}


def _group(parent: Path, runs: Sequence[Run], folder: Path) -> str:
    """The runs in one folder: a grid if it is a sweep's, else cards."""
    axes = [axes_of(run.folder.name) for run in runs]
    names = list(axes[0])
    is_sweep = bool(names) and all(list(own) == names for own in axes)
    body = _grid(runs, axes, folder) if is_sweep else ""
    if not body:
        body = f'<ul class="cards">{"".join(_card(run, folder) for run in runs)}</ul>'
    title = isolated(parent.relative_to(folder).as_posix())
    prompts = {run.prompt for run in runs}
    subtitle = f'<p class="faint">{isolated(prompts.pop())}</p>' if is_sweep and len(prompts) == 1 else ""
    return f"<section><h2>{title}</h2>{subtitle}{body}</section>"


def _grid(runs: Sequence[Run], axes: Sequence[Axes], folder: Path) -> str:
    """A table: the last setting across, the others down."""
    *down, across = axes[0]
    cells = {(tuple(own[name] for name in down), own[across]): run for run, own in zip(runs, axes, strict=True)}
    columns = sorted({column for _, column in cells}, key=_order)
    rows = sorted({row for row, _ in cells}, key=lambda row: [_order(value) for value in row])
    labels = {
        (name, own[name]): _label(name, own[name], run) for run, own in zip(runs, axes, strict=True) for name in own
    }
    corner = '<td class="corner"></td>' if down else ""
    head = "".join(f'<th scope="col">{isolated(labels[across, column])}</th>' for column in columns)
    body = []
    for row in rows:
        side = "<br>".join(isolated(labels[name, value]) for name, value in zip(down, row, strict=True))
        found = (cells.get((row, column)) for column in columns)
        shown = "".join(_cell(run, folder) for run in found)
        head_of_row = f'<th scope="row">{side}</th>' if down else ""
        body.append(f"<tr>{head_of_row}{shown}</tr>")
    return (
        f'<div class="sweep" tabindex="0" role="group" aria-label="Sweep"><table class="grid"><thead><tr>{corner}{head}'
        f"</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _label(name: str, value: str, run: Run) -> str:
    """A setting and its value: as the settings have it, for the folder's name shortens texts."""
    return f"{name.rpartition('.')[2].replace('_', ' ')} {run.setting(name) or value}"


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _cell(run: Run | None, folder: Path) -> str:
    if run is None:
        return '<td><div class="none">none</div></td>'
    return f'<td data-words="{_words(run)}">{_inner(run, folder, words=False)}</td>'


def _card(run: Run, folder: Path) -> str:
    return f'<li data-words="{_words(run)}">{_inner(run, folder)}</li>'


def _words(run: Run) -> str:
    """What the filter finds a run by."""
    known = [run.folder.parent.name, run.folder.name, run.title, f"seed {run.seed}", run.setting("prior.name")]
    return text(" ".join([*known, run.setting("guidance.method"), run.state.value, run.day]).lower())


def _inner(run: Run, folder: Path, *, words: bool = True) -> str:
    facts = " · ".join(filter(None, (run.folder.name, f"seed {run.seed}" if run.seed else "", run.day[:10])))
    prompt = f'<p class="prompt" dir="auto">{text(run.title)}</p>' if words else ""
    shown = f'<p class="facts">{isolated(facts)}</p>' if words else ""
    mark = badge(run)
    inside = f'{_image(run, folder)}<div class="words">{prompt}{f"<p>{mark}</p>" if mark else ""}{shown}</div>'
    if not words and not mark:
        inside = _image(run, folder)
    target = next((name for name in (PAGE, "avatar.html") if run.has(name)), None)
    if target is None:
        return f'<div class="card">{inside}</div>'
    return f'<a class="card" href="{html.link(run.folder / target, folder)}">{inside}</a>'


def _image(run: Run, folder: Path) -> str:
    """The turning avatar (still where motion is to be reduced), else the last preview, else nothing."""
    alt = f'alt="{text(run.title)}" loading="lazy"'
    if run.has(TURNTABLE):
        still = f'<source srcset="{html.link(run.folder / POSTER, folder)}" media="(prefers-reduced-motion: reduce)">'
        turning = f'<img src="{html.link(run.folder / TURNTABLE, folder)}" {alt}>'
        return f"<picture>{still if run.has(POSTER) else ''}{turning}</picture>"
    sheets = run.previews()
    if sheets:
        return f'<img src="{html.link(sheets[-1], folder)}" {alt}>'
    return '<div class="blank">no image yet</div>'

"""suite=identity: the report, made from the figures of ``identity_figures``."""

from collections.abc import Mapping, Sequence
from typing import Any

from avatar_gs.core.console import format_duration
from avatar_gs.lab.metrics.colours import RIGHT_SHARE
from avatar_gs.lab.metrics.likeness import KEPT_WITHIN, LEAST_CONTRAST
from avatar_gs.lab.metrics.people import DISTRACTORS, FRAMINGS, PHOTOS, SUBJECTS
from avatar_gs.lab.metrics.portraits import PARTS
from avatar_gs.lab.metrics.views import BACK_AZIMUTHS, ORBIT
from avatar_gs.lab.suites.identity_figures import COMBINED, FACE, Portrayal
from avatar_gs.lab.suites.report import markdown_table, number
from avatar_gs.types import Framing

SHORT = ("avatars", "found", "PSNR", "distance", "ΔE00", "faces behind", "in front")
VIEWS = ("all", "body/front", "body/side", "body/back", "head/front", "head/side", "head/back")


def sections(results: dict[str, Any]) -> list[str]:
    """The report of suite=identity, below its head."""
    figures = results["figures"]
    heads = FRAMINGS.count(Framing.HEAD)
    return [
        f"Each person is known by {PHOTOS} photos (at least {heads} of the head) in poses, framings, views, light "
        "and backgrounds that all differ. A true person is the drawn one, dressed, in the A-pose, on the run's own "
        "body (photos do not set its shape).",
        _retrieval(figures["retrieval"]),
        _likeness(figures["likeness"]),
        _editability(figures["editability"]),
        _fewer_photos(figures["photos"]),
        _ablations(figures["ablations"]),
        _choices(figures["choices"]),
        _janus(figures["janus"]),
        _costs(figures["embedding"], figures["costs"]),
    ]


def _retrieval(rows: Mapping[str, Any]) -> str:
    measures = list(next(iter(rows.values())))
    columns = ["made by", "avatars", *measures, "Wilson ≥", "mean rank"]
    table = [
        [
            name,
            str(row[COMBINED]["avatars"]),
            *(number(row[measure]["fraction"]) for measure in measures),
            number(row[COMBINED]["wilson"]),
            number(row[COMBINED]["mean_rank"], 1),
        ]
        for name, row in rows.items()
    ]
    crowd = SUBJECTS + DISTRACTORS
    text = (
        f"Fractions of avatars that are, from the front (full body and head), nearest to their own person among "
        f"{crowd} people (aim ≥ .90; chance "
        f"{1 / crowd:.2f}). *Colour layout*: mean CIELAB of a coarse grid on the figure; *scorer*: the packaged "
        "scorer's features of who it is; *combined*: both, each divided by its mean over the crowd. Wilson's bound and "
        f"the mean rank (0: found) are of that. *{Portrayal.SAME_PERSON.value}*: the ceiling.\n"
    )
    return f"## Retrieval\n\n{text}\n{markdown_table(columns, table)}\n"


def _likeness(rows: Mapping[str, Any]) -> str:
    text = (
        f"Against the true person from {len(ORBIT)} sides, none of them a photo's, as full body and as head: PSNR "
        "in dB on the pixels of the figure, the distance of the scorer's features (1 - cosine), and the median ΔE00 of "
        f"each part. Ceiling: *{Portrayal.SAME_PERSON.value}* (another light, clothes' colours as they vary between "
        "photos, through the prior's autoencoder). Floor: the true images of "
        f"*{Portrayal.OTHER_PERSON.value}*.\n"
    )
    parts = [*PARTS]
    overall = [
        [name, number(row["all"]["psnr"], 1), number(row["all"]["distance"], 3)]
        + [number(row["all"]["delta_e"].get(part), 1) for part in parts]
        for name, row in rows.items()
    ]
    tables = [markdown_table(["made by", "PSNR", "distance", *(f"ΔE00 {part}" for part in parts)], overall)]
    for title, key, digits in (("PSNR by view", "psnr", 1), ("distance by view", "distance", 3)):
        by_view = [
            [name, *(number(row[view][key], digits) for view in VIEWS if view in row)] for name, row in rows.items()
        ]
        tables.append(markdown_table([title, *(view for view in VIEWS if view in next(iter(rows.values())))], by_view))
    tables += [_delta_e_by_view(rows)]
    return f"## Likeness\n\n{text}\n" + "\n\n".join(tables) + "\n"


def _delta_e_by_view(rows: Mapping[str, Any]) -> str:
    """A row for each method and part."""
    table = [
        [f"{name}: {part}", *(number(row[view]["delta_e"].get(part), 1) for view in VIEWS if view in row)]
        for name, row in rows.items()
        for part in PARTS
    ]
    return markdown_table(["ΔE00 by view", *(view for view in VIEWS if view in next(iter(rows.values())))], table)


def _editability(rows: Mapping[str, Any]) -> str:
    parts = [*PARTS, FACE]
    table = [
        [name, str(row["avatars"]), *(number(row[name]) for name in ("right", "wilson", "own", "worn", "views"))]
        + [number(row["parts"].get(part)) for part in parts]
        for name, row in rows.items()
    ]
    text = (
        "The same identity in another outfit, named in the prompt. A part is right in a view when its median colour "
        "has the same nearest name as in truth (hair and skin: the person's; clothes: the outfit's) and is within "
        f"ΔE00 {KEPT_WITHIN:g} of it, a face when it stands out from the skin at least {LEAST_CONTRAST:g} times as "
        f"much. *Parts*: the fraction of parts that are right in {RIGHT_SHARE:.0%} of their views (aim ≥ .80), also of "
        "the person's *own* (hair, skin and face) and of the *worn* ones; then all views, and each part's. Ceiling: "
        f"*{Portrayal.SAME_PERSON.value}*, in the clothes of the photos. Floor: another person, in the new outfit; "
        "it is right in all that is worn, so that only its *own* parts are the floor of likeness.\n"
    )
    columns = ["made by", "avatars", "parts", "Wilson ≥", "own", "worn", "all views", *parts]
    return f"## Editability\n\n{text}\n{markdown_table(columns, table)}\n"


def _short_table(first: str, rows: Mapping[str, Any]) -> str:
    return markdown_table([first, *SHORT], [[name, *_short_row(row)] for name, row in rows.items()])


def _short_row(row: Mapping[str, Any]) -> Sequence[str]:
    return [
        str(row["avatars"]),
        number(row["retrieval"]),
        number(row["psnr"], 1),
        number(row["distance"], 3),
        number(row["delta_e"], 1),
        number(row["janus"]),
        number(row["front_face"]),
    ]


def _fewer_photos(rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    text = (
        "The same people by their first photos: a full body from the front, a head, any view, a head, and four more. "
        "Found: by both measures; ΔE00: the mean of the parts' medians.\n"
    )
    return f"## More photos\n\n{text}\n{_short_table('photos', rows)}\n"


def _ablations(rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    text = "The same people. Without y_con: SDS at guidance.cfg_scale + 1, which pulls as strongly.\n"
    return f"## Ablations\n\n{text}\n{_short_table('', rows)}\n"


def _choices(rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    table = [
        [name, *_short_row(row), *(number(row[name]) for name in ("right", "own", "worn"))]
        for name, row in rows.items()
    ]
    text = (
        "The defaults (first row), and on the same people: embed.clothes=bound; and `<id>` only in prompts of heads "
        "and upper bodies from front and sides. The last three columns: the fractions of parts that are right in the "
        "new outfit, as under Editability.\n"
    )
    return f"## Choices\n\n{text}\n{markdown_table(['', *SHORT, 'edited', 'own', 'worn'], table)}\n"


def _janus(rows: Mapping[str, Any]) -> str:
    table = [
        [name, str(row["views"]), str(row["faces"]), number(row["rate"], 3), number(row["front"])]
        for name, row in rows.items()
    ]
    text = (
        f"Heads from behind (azimuths {BACK_AZIMUTHS[0]:g} to {BACK_AZIMUTHS[-1]:g} degrees) in which the packaged "
        "detector sees a face, and next to them the fraction of fronts where it sees one, as it should. On "
        f"*{Portrayal.SAME_PERSON.value}* these are the detector's own errors.\n"
    )
    return f"## Faces behind\n\n{text}\n{markdown_table(['made by', 'views', 'faces', 'rate', 'fronts'], table)}\n"


def _costs(embedding: Mapping[str, Any], costs: Mapping[str, Any]) -> str:
    table = [
        [
            name,
            str(row["identities"]),
            str(row["steps"]),
            number(row["seconds"], 1),
            number(row["most_seconds"], 1),
            number(row["peak_memory_mib"], 0),
        ]
        for name, row in embedding.items()
    ]
    columns = ["identity by", "trained", "steps", "seconds", "at most", "peak memory, MiB"]
    text = (
        f"{costs['steps']} steps, {costs['seconds']:.0f} s an avatar, {costs['splats']:.0f} splats, peak memory "
        f"{costs['peak_memory_mib']:.0f} MiB; {format_duration(costs['wall_seconds'])} for all {costs['avatars']} "
        "avatars and their identities. An identity's memory is the whole process's up to then, at the first of them.\n"
    )
    return f"## Costs\n\n{text}\n{markdown_table(columns, table)}\n"

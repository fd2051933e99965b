"""suite=identity: figures of records whose answers are known."""

import json
from dataclasses import asdict

import pytest

from avatar_gs.lab.metrics.likeness import ViewFigures
from avatar_gs.lab.suites.identity_figures import (
    DRAWN,
    Cost,
    IdentityRecord,
    Portrayal,
    ablations_table,
    costs,
    editability,
    embedding_table,
    janus,
    likeness,
    photos_table,
    rank,
    retrieval,
)
from avatar_gs.lab.suites.suite import restored


def record(portrayal: Portrayal, person: int = 0, nearest: tuple[float, ...] = (0.0, 1.0), **options) -> IdentityRecord:
    views = options.pop("views", [view()])
    embedding = options.pop("embedding", None)
    metrics = {"steps": 2, "splats": 100, "peak_memory_mib": {"host": 900.0}}
    facts = {"seed": 0, "photos": 8, "prompt": "<id>", "backs": 10, "back_faces": 1, "front_face": True}
    distances = {"colour layout": list(nearest), "scorer": list(nearest)}
    made = None if portrayal in DRAWN else metrics
    return IdentityRecord(
        portrayal=portrayal, person=person, views=views, nearest=distances, embedding=embedding, metrics=made,
        seconds=10.0,
        **(facts | options),
    )  # fmt: skip


def view(framing: str = "body", side: str = "front", psnr: float = 20.0, kept: bool = True, face=None) -> ViewFigures:
    return ViewFigures(framing, side, psnr, 0.5, {"hair": psnr / 10}, {"hair": kept, "skin": True}, face)


def test_ranks_and_fractions():
    assert rank([0.3, 0.1, 0.2], 1) == 0 and rank([0.3, 0.1, 0.2], 0) == 2
    assert rank([0.1, 0.1], 0) == 1, "a tie is no find"
    figures = retrieval([record(Portrayal.CROSS_INIT), record(Portrayal.CROSS_INIT, person=1)])
    assert all(row["fraction"] == 0.5 and row["mean_rank"] == 0.5 for row in figures.values())
    assert list(figures) == ["colour layout", "scorer", "combined"]


def test_likeness_by_view():
    some = [record(Portrayal.CROSS_INIT, views=[view(psnr=20.0), view(side="back", psnr=10.0)]), record(Portrayal.FAST)]
    figures = likeness(some)
    assert figures["all"]["psnr"] == pytest.approx(50 / 3) and figures["body/back"]["psnr"] == 10
    assert figures["body/front"]["views"] == 2 and figures["all"]["delta_e"] == {"hair": 2.0}


def test_editability_counts_parts_not_pixels():
    views = [*[view(kept=True)] * 4, view(kept=False, face=0.6)]
    worse = [view(kept=False), view(kept=True, face=0.4)]
    figures = editability([record(Portrayal.NEW_OUTFIT, views=views), record(Portrayal.NEW_OUTFIT, views=worse)])
    assert figures["right"] == pytest.approx(4 / 6)  # hair, skin, face; of the second one only the skin
    assert figures["own"] == figures["right"] and figures["worn"] is None
    assert figures["parts"] == {"hair": pytest.approx(0.65), "skin": 1.0, "face": 0.5}
    assert figures["views"] == pytest.approx((0.8 + 1 + 1 + 0.5 + 1 + 0) / 6)


def test_comparisons_are_of_the_same_people():
    some = [
        record(Portrayal.CROSS_INIT, views=[view(psnr=20.0)]),
        record(Portrayal.CROSS_INIT, person=1, views=[view(psnr=40.0)]),
    ]
    some += [record(Portrayal.FEWER_PHOTOS, photos=number, views=[view(psnr=10.0)]) for number in (1, 2)]
    some += [record(Portrayal.NO_HEAD), record(Portrayal.NO_IDENTITY), record(Portrayal.NO_IDENTITY, person=1)]
    table = photos_table(some)
    assert {name: row["psnr"] for name, row in table.items()} == {"1": 10, "2": 10, "8": 20}
    ablations = ablations_table(some)
    assert {name: row["avatars"] for name, row in ablations.items()} == {
        "the whole method": 1, "without identity": 1, "without head framing": 1
    }  # fmt: skip


def test_an_identity_that_two_avatars_share_is_paid_once():
    shared = Cost(5, 3.0, 800.0)
    some = [record(Portrayal.CROSS_INIT, embedding=shared), record(Portrayal.NEW_OUTFIT, embedding=shared)]
    some += [record(Portrayal.FAST, embedding=Cost(2, 1.0, 850.0)), record(Portrayal.OTHER_PERSON)]
    figures = costs(some)
    assert figures["wall_seconds"] == 34.0 and figures["avatars"] == 3 and figures["person_seconds"] == 34.0
    assert embedding_table(some)["fast"] == {
        "identities": 1, "steps": 2, "seconds": 1.0, "most_seconds": 1.0, "peak_memory_mib": 850.0
    }  # fmt: skip


def test_janus_rate():
    figures = janus([record(Portrayal.CROSS_INIT), record(Portrayal.CROSS_INIT, back_faces=0, front_face=False)])
    assert figures == {"views": 20, "faces": 1, "rate": 0.05, "front": 0.5}


def test_records_survive_json():
    one = record(Portrayal.CROSS_INIT, views=[view(face=0.7)], embedding=Cost(5, 3.0, 800.0))
    assert restored(IdentityRecord, json.loads(json.dumps(asdict(one)))) == one
    drawn = record(Portrayal.SAME_PERSON)
    assert restored(IdentityRecord, json.loads(json.dumps(asdict(drawn)))) == drawn

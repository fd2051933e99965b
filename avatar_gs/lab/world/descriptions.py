"""The words of captions for what a picture shows, as alternatives: kept beside the packaged prior, which is asked them
of photos."""

from avatar_gs.lab.world.vocabulary import CLOTHES, HAIR, SKIN


def descriptions() -> dict[str, list[str] | dict[str, list[str]]]:
    """What ``prior.descriptions`` reads. Stripes and sleeves are left out: pictures hardly follow their words."""
    return {
        "person": ["a person", "a man", "a woman"],
        "looks": {
            "skin": [f"{name} skin" for name in SKIN],
            "hair": ["a bald head", *(f"{length} {name} hair" for name in HAIR for length in ("short", "long"))],
        },
        "clothes": {
            "shirt": [_a(f"{name} shirt") for name in CLOTHES],
            "bottoms": [
                *(f"{name} trousers" for name in CLOTHES),
                *(f"{name} shorts" for name in CLOTHES),
                *(_a(f"{name} skirt") for name in CLOTHES),
            ],
            "shoes": [f"{name} shoes" for name in CLOTHES],
            "hat": ["", *(_a(f"{name} hat") for name in CLOTHES)],
            "glasses": ["", "glasses"],
        },
    }


def _a(words: str) -> str:
    return f"an {words}" if words.startswith("orange") else f"a {words}"

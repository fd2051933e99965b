"""People of the lifelike world: random ones, and named individuals."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from avatar_gs.lab.people.vocabulary import CLOTHES, CUT_TOPS, HAIR_COLOURS, HAIR_STYLES, SHOES, SUITS
from avatar_gs.lab.world.people import invented_names, jittered, pick

NUM_INDIVIDUALS, INDIVIDUALS_SEED = 300, 31_000
HAIR_UNDER_HATS = "short04"
"""The hair style that lies close to the head."""
YOUNG, MIDDLE_AGED, OLD = 0.74, 0.86, 1.0
"""Upper limits of Anny's age (2/3: a young adult, 1: old) for the words young, middle-aged and old."""
SLIM, HEAVY = 0.27, 0.66
"""Weights below and above which captions use these words."""
RGB = tuple[float, float, float]
SEXES = ("f", "m")
RACES = ("african", "asian", "caucasian")

SKINS: dict[str, tuple[str, str, float, str]] = {
    "skin_yl_m": ("m", "caucasian", 0.67, "light"),
    "skin_yl_m2": ("m", "asian", 0.67, "light"),
    "skin_yl_m3": ("m", "caucasian", 0.67, "light"),
    "skin_ml_m": ("m", "caucasian", 0.80, "light"),
    "skin_ml_m2": ("m", "asian", 0.80, "light"),
    "skin_ol_m2": ("m", "asian", 0.95, "light"),
    "skin_yd_m": ("m", "african", 0.67, "dark"),
    "skin_md_m": ("m", "african", 0.80, "dark"),
    "skin_od_m": ("m", "african", 0.95, "dark"),
    "skin_yl_f2": ("f", "asian", 0.67, "light"),
    "skin_yl_f3": ("f", "caucasian", 0.67, "light"),
    "skin_ml_f2": ("f", "asian", 0.80, "light"),
    "skin_md_f": ("f", "african", 0.72, "dark"),
    "skin_od_f": ("f", "african", 0.95, "dark"),
    "skin_dart": ("f", "caucasian", 0.67, "light"),
    "skin_cream": ("f", "african", 0.67, "brown"),
    "skin_eu_y": ("f", "asian", 0.67, "light"),
    "skin_eu_m": ("f", "asian", 0.80, "light"),
    "skin_eu_o": ("f", "caucasian", 0.94, "light"),
    "skin_eu_om": ("m", "caucasian", 0.94, "light"),
    "skin_bronze": ("f", "caucasian", 0.67, "tan"),
    "skin_af_m": ("m", "african", 0.76, "dark"),
}
"""Skin textures of the pack: sex, race, age, and the word for the tone."""
FACE_PARTS = ("eye", "chin", "nose", "mouth", "head-", "forehead", "cheek", "ear-", "eyebrows")
NOT_VARIED = ("head-age", "head-trans", "head-angle", "ear-wing", "nubian", "mouth-trans-in", "mouth-trans-out")
"""Local changes that are not used, since they tilt or deform the head."""


@dataclass(frozen=True)
class Garb:
    """A top or bottoms: one half of a suit of the pack, or a garment cut from the helper meshes."""

    item: str
    is_suit: bool
    colour: str
    """A word of ``CLOTHES``; empty: the suit's original colours."""
    rgb: RGB = (128.0, 128.0, 128.0)
    stripe: float = 0.0
    """The period of stripes in decimetres; 0 for none."""
    stripe_colour: str = ""
    stripe_rgb: RGB = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Outfit:
    """All clothes of a person. With ``is_dress``, top and bottoms are one garment of one colour."""

    top: Garb
    bottoms: Garb
    is_dress: bool
    shoes: str
    shoes_colour: str
    """A word of ``CLOTHES``; empty: the shoes' original colours."""
    shoes_rgb: RGB
    hat: str
    """The hat's colour; empty: none."""
    hat_rgb: RGB
    glasses: bool
    glasses_round: float = 0.5
    glasses_rgb: RGB = (20.0, 20.0, 20.0)


@dataclass(frozen=True, eq=False)
class Person:
    """One person."""

    sex: str
    phenotypes: dict[str, float]
    changes: dict[str, float]
    """Local changes of the face, and the expression, by name."""
    skin: str
    second_skin: str
    skin_mix: float
    skin_gain: Float[np.ndarray, "3"]
    skin_word: str
    hair: str
    """A style of the pack; empty: bald."""
    hair_colour: str
    hair_rgb: RGB
    brow_rgb: RGB
    brows: str
    lashes: str
    eyes: str
    outfit: Outfit
    name: str = ""

    @property
    def age_word(self) -> str:
        """young, middle-aged or old."""
        age = self.phenotypes["age"]
        return "young" if age < YOUNG else "middle-aged" if age < MIDDLE_AGED else "old"

    @property
    def build_word(self) -> str:
        """slim, heavy or empty."""
        weight = self.phenotypes["weight"]
        return "slim" if weight < SLIM else "heavy" if weight > HEAVY else ""


def random_person(rng: np.random.Generator, local_changes: tuple[str, ...]) -> Person:
    """A person with random attributes that fit each other (skin and shape, sex and clothes, age and hair).

    Args:
        local_changes: names of the shape basis.
    """
    sex = pick(rng, SEXES)
    skin = pick(rng, [name for name, facts in SKINS.items() if facts[0] == sex])
    _, race, age, word = SKINS[skin]
    second, mix, gain, word = _second_skin(rng, skin, word)
    phenotypes = {
        "gender": float(np.clip(rng.normal(0.04 if sex == "m" else 0.96, 0.05), 0, 1)),
        "age": float(np.clip(rng.normal(age, 0.035), 0.62, 1)),
        "muscle": float(rng.beta(3, 2.6)),
        "weight": float(rng.beta(2.2, 2.6)),
        "height": float(np.clip(rng.normal(0.36, 0.07), 0.15, 0.6)),  # mean 1.76 m and 1.63 m
        "proportions": float(rng.uniform(0.3, 1)),
        "cupsize": float(rng.beta(2.5, 3)),
        "firmness": float(rng.uniform(0.4, 0.8)),
        **{other: 1.0 if other == race else 0.06 for other in RACES},
    }
    hair, colour = _hair(rng, sex, race, phenotypes["age"])
    hair_rgb = jittered(rng, HAIR_COLOURS[colour]) if hair else (60.0, 45.0, 38.0)
    brow = tuple(float(np.clip(value * rng.uniform(0.45, 0.75), 0, 110)) for value in hair_rgb)
    person = Person(
        sex=sex,
        phenotypes=phenotypes,
        changes=_face(rng, local_changes),
        skin=skin,
        second_skin=second,
        skin_mix=mix,
        skin_gain=gain,
        skin_word=word,
        hair=hair,
        hair_colour=colour if hair else "",
        hair_rgb=hair_rgb,
        brow_rgb=(brow[0], brow[1], brow[2]),
        brows=f"eyebrow{rng.integers(1, 13):03d}",
        lashes=f"eyelashes0{rng.integers(1, 5) if sex == 'f' else 1}",
        eyes=_eyes(rng, race),
        outfit=random_outfit(rng, sex),
    )
    return with_hat_hair(person)


def with_hat_hair(person: Person) -> Person:
    """The person with hair that fits under the hat, if there is one."""
    if not person.outfit.hat or not person.hair:
        return person
    return replace(person, hair=HAIR_UNDER_HATS)


def random_outfit(rng: np.random.Generator, sex: str) -> Outfit:
    """Clothes for a woman (f) or a man (m), of independent colours."""
    suits = [name for name, suit in SUITS.items() if suit.sex == sex]
    is_dress = sex == "f" and rng.random() < 0.12
    if is_dress:
        top = _cut_garb(rng, pick(rng, ["tank top", "T-shirt", "long-sleeved shirt"]), 0.15)
        bottoms = replace(top, item=pick(rng, ["short skirt", "skirt", "long skirt"]))
    else:
        top = (
            _suit_garb(rng, pick(rng, suits)) if rng.random() < 0.55 else _cut_garb(rng, pick(rng, list(CUT_TOPS)), 0.3)
        )
        cut_bottoms = ["leggings", "shorts", "short skirt", "skirt", "long skirt"] if sex == "f" else ["shorts"]
        from_suit = rng.random() < (0.55 if sex == "f" else 0.78)
        bottoms = _suit_garb(rng, pick(rng, suits)) if from_suit else _cut_garb(rng, pick(rng, cut_bottoms), 0.0)
    hat = pick(rng, list(CLOTHES)) if rng.random() < 0.12 else ""
    shoes_colour = pick(rng, list(CLOTHES)) if rng.random() < 0.8 else ""
    shoes = pick(rng, list(SHOES))
    return Outfit(
        top=top,
        bottoms=bottoms,
        is_dress=is_dress,
        shoes=shoes,
        shoes_colour=shoes_colour,
        shoes_rgb=jittered(rng, CLOTHES[shoes_colour]) if shoes_colour else (128.0, 128.0, 128.0),
        hat=hat,
        hat_rgb=jittered(rng, CLOTHES[hat]) if hat else (0.0, 0.0, 0.0),
        glasses=bool(rng.random() < 0.12),
        glasses_round=float(rng.uniform(0, 1)),
        glasses_rgb=jittered(rng, (25, 22, 20) if rng.random() < 0.7 else (120, 60, 30)),
    )


def held_out(person: Person) -> bool:
    """Whether this combination of colours is reserved for evaluation (one in ten)."""
    colours = list(CLOTHES)
    top, bottoms = (
        colours.index(garb.colour) if garb.colour else len(colours)
        for garb in (person.outfit.top, person.outfit.bottoms)
    )
    hair = list(HAIR_COLOURS).index(person.hair_colour) if person.hair else len(HAIR_COLOURS)
    return (5 * top + 7 * bottoms + 3 * hair) % 10 == 0


def training_person(rng: np.random.Generator, local_changes: tuple[str, ...]) -> Person:
    """A random person whose combination of colours is not held out."""
    while True:
        person = random_person(rng, local_changes)
        if not held_out(person):
            return person


def redressed(person: Person, rng: np.random.Generator) -> Person:
    """The same person in another outfit (never a held-out combination)."""
    while True:
        other = with_hat_hair(replace(person, outfit=random_outfit(rng, person.sex)))
        if not held_out(other):
            return other


@lru_cache(maxsize=4)
def individuals(local_changes: tuple[str, ...]) -> tuple[Person, ...]:
    """The named individuals of this world, always the same."""
    rng = np.random.default_rng(INDIVIDUALS_SEED)
    names = invented_names(rng, NUM_INDIVIDUALS)
    return tuple(replace(training_person(rng, local_changes), name=name) for name in names)


def individual_names() -> list[str]:
    """The names of the individuals."""
    return invented_names(np.random.default_rng(INDIVIDUALS_SEED), NUM_INDIVIDUALS)


def _second_skin(rng: np.random.Generator, skin: str, word: str) -> tuple[str, float, Float[np.ndarray, "3"], str]:
    """A second skin to mix in, its fraction, a gain, and the word for the result.

    Skins of one tone are mixed freely; some dark and light ones are mixed to brown and tan, of which the pack has few.
    """
    sex, _, age, tone = SKINS[skin]
    gain = np.full(3, rng.uniform(0.88, 1.06))
    same = [
        name for name, facts in SKINS.items() if facts[0] == sex and facts[3] == tone and abs(facts[2] - age) < 0.15
    ]
    if tone in ("light", "dark") and rng.random() < 0.2:
        opposite = {"light": "dark", "dark": "light"}[tone]
        others = [name for name, facts in SKINS.items() if facts[0] == sex and facts[3] == opposite]
        mix = float(rng.uniform(0.3, 0.7))
        light = 1 - mix if tone == "light" else mix
        return pick(rng, others), mix, gain, "tan" if light > 0.52 else "brown"
    if tone == "light" and rng.random() < 0.15:  # tanned
        return pick(rng, same), float(rng.uniform(0, 0.5)), gain * np.array([0.78, 0.66, 0.56]), "tan"
    return pick(rng, same), float(rng.uniform(0, 0.5)), gain, word


def _hair(rng: np.random.Generator, sex: str, race: str, age: float) -> tuple[str, str]:
    """A style (empty: bald) and a colour: rarely dyed, for old people mostly grey or white."""
    if rng.random() < (0.1 if sex == "m" else 0.03):
        return "", "brown"
    styles = [name for name, style in HAIR_STYLES.items() if sex in style.sexes]
    if rng.random() < 0.15:
        colour = pick(rng, list(HAIR_COLOURS))
    elif age > MIDDLE_AGED:
        colour = pick(rng, ["grey", "white", "grey"])
    elif race == "caucasian":
        colour = pick(rng, ["black", "brown", "brown", "blonde", "blonde", "red"])
    else:
        colour = pick(rng, ["black", "black", "brown"])
    return pick(rng, styles), colour


def _face(rng: np.random.Generator, local_changes: tuple[str, ...]) -> dict[str, float]:
    """Local changes of the face, nearly symmetric, and an expression."""
    changes: dict[str, float] = {}
    for label in local_changes:
        group, _, name = label.partition(":")
        if group != "local_change" or name.startswith("r-"):
            continue
        if not any(part in name for part in FACE_PARTS) or any(part in name for part in NOT_VARIED):
            continue
        if rng.random() < 0.35:
            changes[label] = float(abs(rng.normal(0, 0.25)))
            mirrored = label.replace(":l-", ":r-")
            if mirrored != label and mirrored in local_changes:
                changes[mirrored] = changes[label] * float(rng.uniform(0.85, 1.15))
    return changes | random_expression(rng)


def random_expression(rng: np.random.Generator) -> dict[str, float]:
    """Facial actions: mostly a faint smile or none, sometimes brows, lids or lips."""
    smile, squint = float(rng.beta(1, 2.2)), float(rng.uniform(0.2, 0.6))
    actions = {"mouthSmile": 0.8 * smile, "cheekSquint": 0.5 * smile * squint}
    for name, chance, most in (
        ("browDown", 0.12, 0.5), ("browOuterUp", 0.12, 0.6), ("eyeBlink", 0.06, 0.5), ("eyeWide", 0.08, 0.5),
        ("mouthFrown", 0.08, 0.5), ("mouthPress", 0.08, 0.5), ("mouthStretch", 0.06, 0.4),
    ):  # fmt: skip
        if rng.random() < chance:
            actions[name] = float(rng.uniform(0, most))
    changes = {f"facial_action:{name}{side}": value for name, value in actions.items() for side in ("Left", "Right")}
    if rng.random() < 0.1:
        changes["facial_action:jawOpen"] = float(rng.uniform(0, 0.08))
    if rng.random() < 0.1:
        changes["facial_action:mouthPucker"] = float(rng.uniform(0, 0.4))
    return changes


def _eyes(rng: np.random.Generator, race: str) -> str:
    if race != "caucasian":
        return pick(rng, ["eye_brown", "eye_brown", "eye_brownlight"])
    return "eye_" + pick(rng, ["brown", "brownlight", "blue", "bluegreen", "deepblue", "green", "grey", "lightblue"])


def _suit_garb(rng: np.random.Generator, item: str) -> Garb:
    suit = SUITS[item]
    if suit.top_colour and rng.random() < 0.35:
        return Garb(item, True, "")
    colour = pick(rng, list(CLOTHES))
    return Garb(item, True, colour, jittered(rng, CLOTHES[colour]))


def _cut_garb(rng: np.random.Generator, item: str, striped: float) -> Garb:
    colour = pick(rng, list(CLOTHES))
    garb = Garb(item, False, colour, jittered(rng, CLOTHES[colour]))
    if rng.random() >= striped:
        return garb
    other = pick(rng, [word for word in CLOTHES if word != colour])
    period = float(rng.choice([0.5, 0.7, 1.0]))
    return replace(garb, stripe=period, stripe_colour=other, stripe_rgb=jittered(rng, CLOTHES[other]))

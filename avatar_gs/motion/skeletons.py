"""Names of joints in motion files: those of CMU's, Mixamo's and Rokoko's skeletons, as SMPL-X's joints."""

import re
from collections.abc import Sequence
from pathlib import Path

from avatar_gs.body.pose import FINGERS
from avatar_gs.core.errors import UserError

_REQUIRED = (
    "pelvis",
    *(f"{side}_{joint}" for joint in ("hip", "knee", "shoulder", "elbow") for side in ("left", "right")),
)
_CENTRAL = {"pelvis": ("hips", "hip", "pelvis"), "neck": ("neck", "neck1", "lowerneck"), "head": ("head",)}
# Of a side, without its name. Where an arm is called shoulder, its collar bone has a name of its own.
_LIMBS = {
    "hip": ("upleg", "thigh", "upperleg", "hip"),
    "knee": ("leg", "shin", "knee", "lowerleg", "calf"),
    "ankle": ("foot", "ankle"),
    "foot": ("toebase", "toe", "toes", "ball"),
    "shoulder": ("arm", "upperarm", "uparm", "shoulder"),
    "elbow": ("forearm", "elbow", "lowerarm"),
    "wrist": ("hand", "wrist"),
    "collar": ("collar", "clavicle", "shoulder"),
}
_SPINES = (
    "spine",
    "spine1",
    "spine2",
    "spine3",
    "spine4",
    "lowerback",
    "chest",
    "chest2",
    "chest3",
    "chest4",
    "abdomen",
)


def plain(name: str) -> str:
    """A name in lower case, without a prefix such as ``mixamorig:`` and without spaces and underscores."""
    return re.sub(r"[\s_.\-]", "", re.sub(r"^.*:", "", name).lower().replace("mixamorig", ""))


def match_joints(names: Sequence[str], path: Path) -> dict[str, int]:
    """SMPL-X joint -> index of the file's joint.

    Raises:
        UserError: if hips, legs or arms are missing; lists the file's joints.
    """
    index: dict[str, int] = {}
    for k, name in enumerate(names):
        index.setdefault(plain(name), k)
    found = {joint: index[name] for joint, options in _CENTRAL.items() for name in options[:1] if name in index}
    for joint, options in _CENTRAL.items():
        found.setdefault(joint, next((index[name] for name in options if name in index), -1))
    for side in ("left", "right"):
        taken: set[int] = set()
        for joint, options in _LIMBS.items():
            spellings = [spelled for option in options for spelled in (side + option, side[0] + option, option + side)]
            match = next((index[name] for name in spellings if index.get(name, -1) not in taken | {-1}), -1)
            found[f"{side}_{joint}"] = match
            taken.add(match)
        for finger in FINGERS:
            for k in (1, 2, 3):
                spellings = (f"{side}hand{finger}{k}", f"{side}{finger}{k}", f"{side}finger{finger}{k}")
                found[f"{side}_{finger}{k}"] = next((index[name] for name in spellings if name in index), -1)
    found = {joint: k for joint, k in found.items() if k >= 0}
    spines = [index[name] for name in _SPINES if name in index]
    found |= _spread(sorted(spines))
    missing = [joint for joint in _REQUIRED if joint not in found]
    if missing:
        listed = ", ".join(name for name in names if not name.endswith(" end"))
        raise UserError(
            f"{path}: no joint for {', '.join(missing)}; expected the names of CMU, Mixamo or Rokoko, found {listed}"
        )
    return found


def _spread(spines: list[int]) -> dict[str, int]:
    """The three joints of the spine from any number, from the lowest to the highest in the file."""
    if not spines:
        return {}
    if len(spines) == 1:
        return {"spine3": spines[0]}
    chosen = {"spine1": spines[0], "spine3": spines[-1]}
    return chosen | ({"spine2": spines[len(spines) // 2]} if len(spines) > 2 else {})

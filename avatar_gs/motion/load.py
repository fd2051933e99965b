"""``motion=<name|file>`` and ``pose=<name|file>``."""

from pathlib import Path

from avatar_gs.body.model import Body
from avatar_gs.body.pose import Pose, a_pose, zero_pose
from avatar_gs.core.errors import UserError
from avatar_gs.motion.angles import read_angles
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.config import UpAxis
from avatar_gs.motion.frame import facing_front, on_ground
from avatar_gs.motion.npz import read_npz
from avatar_gs.motion.packaged import PACKAGED
from avatar_gs.motion.retarget import read_retargeted

POSES = {"a": a_pose, "t": zero_pose}
SUFFIXES = (".npz", ".bvh", ".json", ".csv")


def load_motion(source: str, body: Body, up: UpAxis = UpAxis.auto) -> Motion:
    """A packaged motion, or one from a file: it begins at x = z = 0, faces +z there, and stands on the ground.

    Args:
        source: a name in ``PACKAGED``, or a file.
        body: whose proportions a motion by another skeleton is scaled to.
        up: the vertical axis of a ``.npz`` file.

    Raises:
        UserError: if there is no such motion, or the file is damaged or of another format.
    """
    if source in PACKAGED:
        return PACKAGED[source](body)
    return on_ground(facing_front(_read(source, body, up, "motion")), body)


def load_pose(source: str, body: Body) -> Pose:
    """A named pose (``a``, ``t``), or a frame of a motion: ``walk@12``, ``wave.bvh@0``; default: the middle frame.

    Raises:
        UserError: if there is no such pose, motion or frame.
    """
    if source in POSES:
        return POSES[source]()
    name, at, number = source.rpartition("@")
    chosen = at and number.isascii() and number.isdigit()
    name = name if chosen else source
    maker = PACKAGED.get(name)
    motion = maker(body) if maker else facing_front(_read(name, body, UpAxis.auto, "pose"))
    frame = int(number) if chosen else len(motion) // 2
    if frame >= len(motion):
        raise UserError(f"pose={source}: expected a frame from 0 to {len(motion) - 1}")
    return motion.pose(frame)


def _read(source: str, body: Body, up: UpAxis, setting: str) -> Motion:
    path = Path(source).expanduser()
    names = ", ".join((*POSES, *PACKAGED) if setting == "pose" else PACKAGED)
    if not path.is_file():
        raise UserError(f"{setting}={source}: no such file; expected {names}, or a file ({', '.join(SUFFIXES)})")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{setting}={source}: expected a file that ends with {', '.join(SUFFIXES)}, or {names}")
    if suffix == ".npz":
        return read_npz(path, up)
    if suffix == ".bvh":
        return read_retargeted(path, body.shaped()[1].double().cpu().numpy())
    return read_angles(path)

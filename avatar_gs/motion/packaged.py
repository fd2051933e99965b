"""The packaged motions: ten loops made by hand, for any body."""

from collections.abc import Callable

import numpy as np

from avatar_gs.body.model import Body
from avatar_gs.motion.choreography import SIDES, Choreography
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.curves import bump, cycle, ease

TURN = 2 * np.pi


def stand(body: Body) -> Motion:
    """Stands, breathes, and shifts its weight a little."""
    c = Choreography(body, 8.0)
    breath = 0.5 - 0.5 * np.cos(2 * TURN * c.phase)
    sway = np.sin(TURN * c.phase)
    c.pelvis(x=0.018 * sway, y=-0.012 - 0.003 * np.abs(sway), z=-0.01, tilt=-1.2 * sway, turn=1.5 * sway)
    c.trunk(x=2 - 2.2 * breath, y=-1.5 * sway, z=1.5 * sway)
    c.head(x=-1 + 1.6 * breath, y=5 * np.sin(TURN * c.phase - 0.8), z=-0.5 * sway)
    for side in SIDES:
        c.foot(side, out=0.01)
        c.arm(side, out=8 + 1.2 * breath, forward=3 + 1.5 * sway, elbow=14 + 2 * breath, shrug=-5 + 1.6 * breath)
    return c.motion("stand")


def turn(body: Body) -> Motion:
    """Turns once around on the spot, in small steps."""
    c = Choreography(body, 5.6)
    steps = 6
    c.pelvis(
        x=0.0,
        y=-0.03 + 0.008 * np.cos(2 * TURN * steps * c.phase),
        turn=360 * c.phase,
        tilt=1.2 * np.sin(TURN * steps * c.phase),
    )
    c.trunk(x=2, y=5)
    c.head(y=11)
    for side, offset in zip(SIDES, (0.0, 0.5), strict=True):
        place = (c.phase * steps - offset) % 1.0
        done = np.floor(c.phase * steps - offset)
        moving = ease(place, (0.0, 0.0), (0.08, 0.0), (0.5, 1.0), (1.0, 1.0))
        # The left foot, which leads, is ahead of the pelvis by as much as the right one is behind.
        about = 360 / steps * (done + moving + offset - 0.29)
        lift = 0.045 * bump(place, 0.08, 0.5)
        c.foot(side, lift=lift, heel=14 * bump(place, 0.0, 0.42), turn_out=6, out=0.015, about=about)
        c.arm(side, forward=4 * np.sin(TURN * steps * c.phase), out=10)
    return c.motion("turn")


def wave(body: Body) -> Motion:
    """Raises the right arm and waves."""
    c = Choreography(body, 4.4)
    up = ease(c.time, (0.0, 0.0), (0.25, 0.0), (1.0, 1.0), (3.4, 1.0), (4.25, 0.0), (4.4, 0.0))
    swing = np.sin(TURN * (c.time - 0.85) / 0.62) * ease(
        c.time, (0.0, 0.0), (0.8, 0.0), (1.2, 1.0), (3.2, 1.0), (3.6, 0.0)
    )
    breath = np.sin(TURN * c.phase)
    c.pelvis(x=0.02 * up, y=-0.012, z=-0.01, tilt=-1.5 * up)
    c.trunk(x=1, z=3.5 * up + 0.8 * swing, y=-3 * up)
    c.head(z=-4 * up, y=-6 * up, x=-2 * up)
    for side in SIDES:
        c.foot(side, out=0.01)
    c.arm("left", out=9 + breath, forward=2, elbow=16)
    c.arm(
        "right",
        out=9 + 66 * up,
        forward=2 + 22 * up,
        twist=78 * up,
        elbow=14 + 78 * up + 24 * swing,
        shrug=-5 + 9 * up,
        palm_down=18 - 18 * up,
        wrist=8 * swing,
    )
    c.hand("right", 18 - 14 * up)
    return c.motion("wave")


def _gait_foot(c: Choreography, place: np.ndarray, stride: float, ahead: float, stance: float) -> dict[str, np.ndarray]:
    """A foot of a walk: planted for ``stance`` of a cycle while the ground carries it back, then swung forward."""
    swing = np.clip((place - stance) / (1 - stance), 0, 1)
    start, end, slope = ahead - stride * stance, ahead, -stride * (1 - stance)
    s = swing
    hermite = (2 * s**3 - 3 * s**2 + 1) * start + (s**3 - 2 * s**2 + s) * slope
    hermite += (3 * s**2 - 2 * s**3) * end + (s**3 - s**2) * slope
    forward = np.where(place < stance, ahead - stride * place, hermite)
    keys = (
        (0.0, -18.0),
        (0.09, 0.0),
        (0.36, 0.0),
        (0.50, 22.0),
        (stance, 48.0),
        (0.70, 52.0),
        (0.86, 4.0),
        (0.95, -17.0),
    )
    heel = ease(place, *keys, (1.0, -18.0))
    lift = ease(place, (0.0, 0.0), (stance, 0.0), (0.66, 0.03), (0.8, 0.042), (0.93, 0.022), (1.0, 0.0))
    return {"forward": forward, "heel": heel, "lift": lift}


def walk(body: Body) -> Motion:
    """Walks."""
    seconds, stride, stance = 1.1, 1.14, 0.61
    c = Choreography(body, seconds)
    step = np.cos(TURN * c.phase)  # 1 where the left heel strikes
    side_to_side = np.sin(TURN * c.phase)
    c.pelvis(
        x=0.018 * np.sin(TURN * (c.phase - 0.04)),
        y=-0.046 - 0.017 * np.cos(2 * TURN * (c.phase - 0.05)),
        turn=-6 * step,
        tilt=2.6 * side_to_side,
        bend=2,
    )
    c.trunk(x=1 + 0.8 * np.cos(2 * TURN * c.phase), y=12 * step, z=-3.2 * side_to_side)
    c.head(x=-2, y=-6 * step, z=0.6 * side_to_side)
    for side, offset, sign in zip(SIDES, (0.0, 0.5), (1.0, -1.0), strict=True):
        c.foot(side, **_gait_foot(c, (c.phase + offset) % 1.0, stride, 0.345, stance), out=-0.035, turn_out=6)
        swing = -sign * np.cos(TURN * (c.phase - 0.03))
        c.arm(side, forward=3 + 21 * swing, out=8, elbow=20 + 11 * np.cos(TURN * (c.phase - 0.10)) * -sign, twist=4)
    return c.motion("walk", stride / seconds)


def run(body: Body) -> Motion:
    """Runs in place."""
    c = Choreography(body, 0.7)
    step = np.sin(TURN * (c.phase + 0.03))
    c.pelvis(
        y=cycle(c.phase, (0.0, -0.055), (0.16, -0.085), (0.30, -0.03), (0.42, 0.012), (0.5, -0.055), (0.66, -0.085),
                (0.80, -0.03), (0.92, 0.012)),
        x=0.012 * np.sin(TURN * (c.phase + 0.08)),
        z=-0.02,
        bend=7,
        turn=6 * step,
        tilt=2 * np.sin(TURN * (c.phase + 0.08)),
    )  # fmt: skip
    c.trunk(x=5, y=-14 * step)
    c.head(x=-9, y=8 * step)
    for side, offset, sign in zip(SIDES, (0.0, 0.5), (1.0, -1.0), strict=True):
        place = (c.phase + offset) % 1.0
        lift = ease(place, (0.0, 0.0), (0.36, 0.0), (0.52, 0.20), (0.68, 0.29), (0.84, 0.14), (0.97, 0.0), (1.0, 0.0))
        forward = ease(
            place, (0.0, 0.0), (0.36, 0.0), (0.52, -0.13), (0.66, -0.06), (0.80, 0.06), (0.95, 0.0), (1.0, 0.0)
        )
        heel = ease(
            place,
            (0.0, 12.0),
            (0.08, 0.0),
            (0.18, 0.0),
            (0.36, 36.0),
            (0.52, 50.0),
            (0.72, 30.0),
            (0.92, 12.0),
            (1.0, 12.0),
        )
        c.foot(side, lift=lift, forward=forward, heel=heel, out=-0.03, turn_out=5)
        swing = sign * np.sin(TURN * (c.phase + 0.03))
        c.arm(side, forward=-6 + 34 * swing, out=12, elbow=88 + 14 * swing, twist=16, shrug=-2, palm_down=10)
        c.hand(side, 42)
    return c.motion("run")


def squat(body: Body) -> Motion:
    """Squats and rises, arms stretched forward."""
    c = Choreography(body, 3.6)
    down = ease(c.time, (0.0, 0.0), (0.2, 0.0), (1.55, 1.0), (1.85, 1.0), (3.1, 0.0), (3.6, 0.0))
    c.pelvis(y=-0.012 - 0.40 * down, z=-0.01 - 0.14 * down, bend=32 * down)
    c.trunk(x=2 + 6 * down)
    c.head(x=-26 * down)
    for side in SIDES:
        c.foot(side, out=0.045, turn_out=16)
        c.arm(
            side, forward=2 + 100 * down, out=9 - 4 * down, elbow=14 - 6 * down, shrug=-5 + 6 * down, twist=-10 * down
        )
        c.hand(side, 18 - 10 * down)
    return c.motion("squat")


def sit(body: Body) -> Motion:
    """Sits down, rests and gets up. There is no chair: put one under it."""
    c = Choreography(body, 6.4)
    down = ease(c.time, (0.0, 0.0), (0.3, 0.0), (1.7, 1.0), (4.2, 1.0), (5.7, 0.0), (6.4, 0.0))
    lean = ease(c.time, (0.0, 0.0), (0.3, 0.0), (1.1, 1.0), (2.1, 0.0), (3.8, 0.0), (4.6, 1.0), (5.7, 0.0), (6.4, 0.0))
    breath = np.sin(2 * TURN * c.phase)
    c.pelvis(y=-0.012 - 0.37 * down, z=-0.01 - 0.36 * down, bend=-3 * down + 34 * lean)
    c.trunk(x=2 + 2 * down + 12 * lean + 0.8 * breath)
    c.head(x=-26 * lean, y=4 * np.sin(TURN * c.phase) * down)
    for side in SIDES:
        c.foot(side, out=0.02, turn_out=8)
        c.arm(
            side,
            forward=2 + 11 * down + 12 * lean,
            out=9 + 3 * down,
            elbow=14 + 46 * down - 10 * lean,
            twist=6 * down,
            palm_down=18 + 60 * down,
        )
    return c.motion("sit")


def dance(body: Body) -> Motion:
    """Steps from side to side to a beat of 120 a minute."""
    c = Choreography(body, 4.0)
    beats = c.time / 0.5  # eight of them; the steps repeat after four
    four = beats % 4.0
    across = ease(four, (0.0, 0.0), (0.85, 1.0), (2.0, 1.0), (2.85, 0.0), (4.0, 0.0))
    width = 0.20
    left = width * ease(four, (0.0, 0.0), (0.05, 0.0), (0.8, 1.0), (3.05, 1.0), (3.8, 0.0), (4.0, 0.0))
    right = width * ease(four, (0.0, 0.0), (1.05, 0.0), (1.8, 1.0), (2.05, 1.0), (2.8, 0.0), (4.0, 0.0))
    bounce = 0.5 - 0.5 * np.cos(TURN * beats)
    sway = np.sin(TURN * four / 4)
    c.pelvis(
        x=width * across + 0.02 * sway - width / 2,
        y=-0.035 - 0.045 * (1 - bounce),
        turn=9 * np.sin(TURN * four / 4),
        tilt=5 * np.sin(TURN * (four - 0.5) / 2),
        bend=4,
    )
    c.trunk(x=4 - 4 * bounce, y=-16 * np.sin(TURN * four / 4), z=-7 * np.sin(TURN * (four - 0.5) / 2))
    c.head(x=-2 + 5 * bounce, y=9 * np.sin(TURN * four / 4), z=3 * sway)
    c.foot(
        "left", out=left - width / 2 + 0.01, turn_out=10,
        lift=0.05 * (bump(four / 4, 0.05 / 4, 0.8 / 4) + bump(four / 4, 3.05 / 4, 3.8 / 4)),
        heel=16 * (bump(four / 4, -0.05, 0.16) + bump(four / 4, 0.70, 0.91)),
    )  # fmt: skip
    c.foot(
        "right", out=-right + width / 2 + 0.01, turn_out=10,
        lift=0.05 * (bump(four / 4, 1.05 / 4, 1.8 / 4) + bump(four / 4, 2.05 / 4, 2.8 / 4)),
        heel=16 * (bump(four / 4, 0.20, 0.41) + bump(four / 4, 0.455, 0.66)),
    )  # fmt: skip
    raised = ease(beats, (0.0, 0.0), (3.4, 0.0), (4.4, 1.0), (7.0, 1.0), (8.0, 0.0))
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        swing = sign * np.sin(TURN * beats / 2)
        c.arm(
            side,
            forward=14 + 26 * swing * (1 - raised) + 10 * raised,
            out=20 + 92 * raised + 10 * swing * raised,
            elbow=78 - 14 * swing + 6 * raised,
            twist=8 + 72 * raised,
            palm_down=24 - 24 * raised,
            shrug=-3 + 9 * raised + 3 * bounce,
        )
        c.hand(side, 30 - 14 * raised)
    return c.motion("dance")


def bow(body: Body) -> Motion:
    """Bows."""
    c = Choreography(body, 4.6)
    down = ease(c.time, (0.0, 0.0), (0.3, 0.0), (1.5, 1.0), (2.5, 1.0), (3.9, 0.0), (4.6, 0.0))
    c.pelvis(y=-0.012 - 0.02 * down, z=-0.01 - 0.11 * down, bend=34 * down)
    c.trunk(x=1 + 22 * down)
    c.head(x=14 * down)
    for side in SIDES:
        c.foot(side, out=-0.01)
        c.arm(side, forward=2 + 34 * down, out=8 - 2 * down, elbow=12 - 2 * down)
        c.hand(side, 12)
    return c.motion("bow")


def point(body: Body) -> Motion:
    """Points ahead to its left with the left arm, and looks there."""
    c = Choreography(body, 4.4)
    up = ease(c.time, (0.0, 0.0), (0.3, 0.0), (1.05, 1.0), (3.2, 1.0), (4.1, 0.0), (4.4, 0.0))
    stress = ease(
        c.time, (0.0, 0.0), (1.4, 0.0), (1.6, 1.0), (1.9, 0.0), (2.2, 0.0), (2.4, 1.0), (2.7, 0.0), (4.4, 0.0)
    )
    c.pelvis(x=0.03 * up, y=-0.014, z=-0.01 + 0.015 * up, turn=8 * up, tilt=-2 * up)
    c.trunk(x=1 + 3 * up, y=10 * up, z=1.5 * up)
    c.head(y=16 * up, x=-2 * up + 2 * stress)
    for side in SIDES:
        c.foot(side, out=0.01)
    c.arm(
        "left",
        forward=2 + 76 * up + 5 * stress,
        out=9 + 20 * up,
        elbow=14 - 6 * up + 6 * stress,
        shrug=-5 + 7 * up,
        twist=-6 * up,
    )
    c.arm("right", out=9, forward=2 - 6 * up, elbow=16 + 4 * up)
    c.hand("left", 18 + 48 * up, index=18 - 16 * up, thumb=18 + 30 * up)
    return c.motion("point")


PACKAGED: dict[str, Callable[[Body], Motion]] = {
    maker.__name__: maker for maker in (stand, turn, wave, walk, run, squat, sit, dance, bow, point)
}
"""The packaged motions by their names."""

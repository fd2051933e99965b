"""A figure that is moved by hand: curves for pelvis, trunk, arms and feet; the legs reach for the feet.

Angles are in degrees. Lengths are in metres of a figure with legs (hip to ankle) of 0.8 m, and scaled to the body's.
Left and right are mirrored: the same numbers move both sides alike.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatar_gs.body.model import Body
from avatar_gs.body.pose import FINGERS, JOINT, JOINTS
from avatar_gs.motion.clip import Motion
from avatar_gs.motion.legs import reach

Side = Literal["left", "right"]
Curve = int | float | Float[np.ndarray, " F"]
SIDES: tuple[Side, Side] = ("left", "right")
FPS = 30.0
LEG = 0.8
"""Metres: the length of the legs for which motions are written."""
SOLE = 0.012
"""Metres above the ground up to which a foot's vertices are its sole."""


class Choreography:
    """Poses over a cycle. ``phase`` runs from 0 to below 1, ``time`` in seconds."""

    def __init__(self, body: Body, seconds: float) -> None:
        vertices, joints = body.shaped()
        self.rest = joints.double().cpu().numpy()
        self.sole = float(vertices[:, 1].min())
        self.heels = {side: self._heel(side, vertices.double().cpu().numpy(), body) for side in SIDES}
        self.frames = round(seconds * FPS)
        self.phase = np.arange(self.frames) / self.frames
        self.time = self.phase * seconds
        legs = [self.rest[JOINT[f"{side}_hip"]] - self.rest[JOINT[f"{side}_ankle"]] for side in SIDES]
        self.unit = float(np.mean(np.linalg.norm(legs, axis=1))) / LEG
        self.rotations = {name: Rotation.identity(self.frames) for name in JOINTS}
        self.pelvis_at = np.zeros((self.frames, 3))
        self.feet = {side: (self._still(side), Rotation.identity(self.frames)) for side in SIDES}
        for side in SIDES:
            self.foot(side)
            self.arm(side)
            self.hand(side)

    def curve(self, value: Curve) -> Float[np.ndarray, " F"]:
        return np.broadcast_to(np.asarray(value, dtype=float), (self.frames,))

    def rotation(self, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> Rotation:
        """Bending forward (x), turning to the left (y), raising the left side (z): the turn first, then the bend."""
        angles = np.stack([self.curve(value) for value in (y, x, z)], -1)
        return Rotation.from_euler("YXZ", angles, degrees=True)

    def turn(self, joint: str, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> None:
        """The rotation of one joint of the trunk."""
        self.rotations[joint] = self.rotation(x, y, z)

    def trunk(self, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> None:
        """A bend of the whole spine, divided among its joints."""
        for joint in ("spine1", "spine2", "spine3"):
            self.turn(joint, *(self.curve(value) / 3 for value in (x, y, z)))

    def head(self, x: Curve = 0.0, y: Curve = 0.0, z: Curve = 0.0) -> None:
        """A turn of the head relative to the chest, divided between neck and head."""
        self.turn("neck", *(0.4 * self.curve(value) for value in (x, y, z)))
        self.turn("head", *(0.6 * self.curve(value) for value in (x, y, z)))

    def pelvis(
        self,
        x: Curve = 0.0,
        y: Curve = 0.0,
        z: Curve = 0.0,
        *,
        bend: Curve = 0.0,
        turn: Curve = 0.0,
        tilt: Curve = 0.0,
    ) -> None:
        """The pelvis: metres to its left, up and forward from straight standing, and its rotation."""
        self.pelvis_at = self.unit * np.stack([self.curve(value) for value in (x, y, z)], -1)
        self.rotations["pelvis"] = self.rotation(bend, turn, tilt)

    def _heel(self, side: Side, vertices: Float[np.ndarray, "V 3"], body: Body) -> Float[np.ndarray, "3"]:
        """The last point of the sole, about which a foot rolls when it is set down."""
        moved = body.weights[:, JOINT[f"{side}_ankle"]].cpu().numpy() > 0.5
        sole = vertices[moved & (vertices[:, 1] < self.sole + SOLE)]
        back = sole[sole[:, 2].argmin()] if len(sole) else self.rest[JOINT[f"{side}_ankle"]]
        return np.array([back[0], self.sole, back[2]])

    def _still(self, side: Side) -> np.ndarray:
        return np.tile(self.rest[JOINT[f"{side}_ankle"]], (self.frames, 1))

    def foot(
        self,
        side: Side,
        *,
        out: Curve = 0.0,
        lift: Curve = 0.0,
        forward: Curve = 0.0,
        turn_out: Curve = 7.0,
        heel: Curve = 0.0,
        about: Float[np.ndarray, " F"] | None = None,
    ) -> None:
        """One foot.

        Args:
            side: of the body.
            out, lift, forward: metres from its place in the T-pose.
            turn_out: of the toes.
            heel: how far the heel is raised, with the ball of the foot in place and the toes flat; below 0 the toes
                are raised and the heel stays.
            about: degrees by which the foot is carried around the body's vertical axis.
        """
        mirror = 1.0 if side == "left" else -1.0
        ankle, ball = self.rest[JOINT[f"{side}_ankle"]], self.rest[JOINT[f"{side}_foot"]]
        out, lift, forward, heel = (self.curve(value) for value in (out, lift, forward, heel))
        yaw = self.rotation(y=mirror * self.curve(turn_out))
        raised = np.maximum(heel, 0.0)
        tipped = self.rotation(x=heel)
        pivot = np.where(raised[:, None] > 0, ball - ankle, self.heels[side] - ankle)
        placed = ankle + self.unit * np.stack([mirror * out, lift, forward], -1)
        position = placed + yaw.apply(pivot + tipped.apply(-pivot))
        turned = yaw * tipped
        if about is not None:
            around = self.rotation(y=about)
            position, turned = around.apply(position), around * turned
        self.feet[side] = position, turned
        self.rotations[f"{side}_foot"] = self.rotation(x=-raised)

    def arm(
        self,
        side: Side,
        *,
        forward: Curve = 0.0,
        out: Curve = 9.0,
        twist: Curve = 0.0,
        elbow: Curve = 14.0,
        shrug: Curve = -5.0,
        palm_down: Curve = 18.0,
        wrist: Curve = 0.0,
    ) -> None:
        """One arm, from hanging.

        Args:
            side: of the body.
            forward: swing of the upper arm to the front.
            out: raising it sideways.
            twist: of the upper arm about itself; above 0 turns a bent forearm up and outwards.
            elbow: its bend.
            shrug: raising the shoulder.
            palm_down: turn of the forearm; 0 is a palm that faces the body, 90 one that faces down or back.
            wrist: bend towards the thumb.
        """
        mirror = 1.0 if side == "left" else -1.0
        forward, out, twist, elbow, shrug = (self.curve(value) for value in (forward, out, twist, elbow, shrug))

        def about(axis: str, angles: np.ndarray) -> Rotation:
            return Rotation.from_euler(axis, angles[:, None], degrees=True)

        collar = about("z", mirror * shrug)
        swung = about("x", -forward) * about("z", mirror * (out - 90.0)) * about("x", -twist)
        self.rotations[f"{side}_collar"] = collar
        self.rotations[f"{side}_shoulder"] = collar.inv() * swung
        pronation = about("x", self.curve(palm_down) / 2)
        self.rotations[f"{side}_elbow"] = about("y", -mirror * elbow) * pronation
        self.rotations[f"{side}_wrist"] = pronation * about("y", -mirror * self.curve(wrist))

    def hand(self, side: Side, curl: Curve = 18.0, **fingers: Curve) -> None:
        """Fingers: how far each joint is bent; ``index=0.0`` sets one finger's own."""
        mirror = 1.0 if side == "left" else -1.0
        for finger in FINGERS:
            bend = self.curve(fingers.get(finger, curl))
            for k in (1, 2, 3):
                if finger == "thumb":
                    turned = self.rotation(x=0.25 * bend, y=-mirror * 0.5 * bend)
                else:
                    turned = self.rotation(z=-mirror * bend * (1.0 if k < 3 else 0.6))
                self.rotations[f"{side}_{finger}{k}"] = turned

    def motion(self, name: str, velocity: float = 0.0) -> Motion:
        """The motion; ``velocity`` in metres per second forward, of the ground under the feet."""
        pelvis = self.rest[0] + self.pelvis_at
        turned = self.rotations["pelvis"]
        for side in SIDES:
            position, foot = self.feet[side]
            # Knees point between pelvis and toes.
            ahead = turned.apply([0.0, 0.0, 1.0]) * [1, 0, 1]
            toes = foot.apply([0.0, 0.0, 1.0]) * [1, 0, 1]
            ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
            toes = toes / np.linalg.norm(toes, axis=1, keepdims=True)
            leg = reach(self.rest, side, (pelvis, turned), (position, foot), ahead + toes)
            for joint in ("hip", "knee", "ankle"):
                self.rotations[f"{side}_{joint}"] = getattr(leg, joint)
        axis_angles = np.stack([self.rotations[joint].as_rotvec() for joint in JOINTS], 1).astype(np.float32)
        translation = (self.pelvis_at - [0.0, self.sole, 0.0]).astype(np.float32)
        return Motion(name, FPS, axis_angles, translation, True, (0.0, 0.0, velocity * self.unit))

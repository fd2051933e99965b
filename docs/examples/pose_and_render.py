"""Pose and render an avatar: python docs/examples/pose_and_render.py [run]

The default run is the one that make_avatar.py makes. Writes images and a PLY file to outputs/examples/.
"""

import sys
from pathlib import Path

from PIL import Image

import avatar_gs

OUTPUT = Path("outputs/examples")

avatar = avatar_gs.load(sys.argv[1] if len(sys.argv) > 1 else "examples/anna")
waving = avatar.pose(right_shoulder=(0.0, 0.0, -0.9), right_elbow=(0.0, 0.0, -1.2))
OUTPUT.mkdir(parents=True, exist_ok=True)
views = {"front": waving.camera(), "left": waving.camera(azimuth=90), "head": waving.camera(framing="head", size=256)}
for name, camera in views.items():
    Image.fromarray(waving.render(camera)).save(OUTPUT / f"waving_{name}.png")
print("wrote", waving.save(OUTPUT / "waving.ply"))

"""Bodies and motions that are damaged or lie."""

import json

import numpy as np
import pytest
from hypothesis import strategies as st

from avatar_gs.body import files as body_files
from avatar_gs.motion.angles import read_angles
from avatar_gs.motion.bvh import read_bvh
from avatar_gs.motion.npz import read_npz
from tests.robustness.hostile import damaged, examples, try_cases, written

pytestmark = pytest.mark.usefixtures("little_memory")


@examples
def test_bodies(tmp_path, examples):
    numbers = {"V": 3, "F": 2, "S": 4, "H": 45}
    arrays = {
        name: np.zeros([numbers[size] if isinstance(size, str) else size for size in shape], np.float32)
        for name, shape in body_files.LAYOUT.items()
    }
    original = written(tmp_path, "SMPLX_A.npz", lambda path: np.savez_compressed(path, **arrays))  # pyright: ignore[reportArgumentType]
    objects = written(tmp_path, "SMPLX_B.npz", lambda path: np.savez(path, f=np.array({1: 2}, dtype=object)))

    def read(data):
        path = tmp_path / "SMPLX_NEUTRAL.npz"
        path.write_bytes(data)
        if body_files.checked_body(path) == path:
            body_files.read_arrays(path)

    try_cases(examples, damaged(original, objects), read)


BVH = b"""HIERARCHY
ROOT Hips
{
  OFFSET 0 90 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Spine
  {
    OFFSET 0 20 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 10 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0333333
0 90 0 0 0 0 1 2 3
0 91 0 0 0 0 1 2 3
"""


@examples
def test_motions(tmp_path, examples):
    arrays = {"poses": np.zeros((3, 165)), "trans": np.zeros((3, 3)), "mocap_frame_rate": np.array(30.0)}
    amass = written(tmp_path, "a.npz", lambda path: np.savez_compressed(path, **arrays))  # pyright: ignore[reportArgumentType]
    table = json.dumps({"fps": 30, "frames": [{"left_elbow": [0, -1.2, 0], "translation": [0, 0.1, 0]}]}).encode()
    columns = b"time,left_elbow.x,translation.z\n0,1,2\n0.1,1,2\n"
    readers = {".npz": read_npz, ".bvh": read_bvh, ".json": read_angles, ".csv": read_angles}

    def read(case):
        data, suffix = case
        (tmp_path / f"a{suffix}").write_bytes(data)
        readers[suffix](tmp_path / f"a{suffix}")

    files = [
        st.tuples(damaged(data), st.just(suffix))
        for data, suffix in zip((amass, BVH, table, columns), readers, strict=True)
    ]
    try_cases(examples, st.one_of(files), read)

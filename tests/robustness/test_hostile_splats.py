"""Splat files that are damaged or lie."""

import pytest
from hypothesis import strategies as st

from avatar_gs.export.ply import read_ply, write_ply
from tests.robustness.hostile import damaged, examples, splats, try_cases, written

pytestmark = pytest.mark.usefixtures("little_memory")


PLY_HEADERS = st.lists(
    st.sampled_from(
        [
            "element vertex 99999999999999",
            "element vertex -1",
            "element vertex 3",
            "element face 2000000000",
            "property list uint uint vertex_indices",
            "property list uchar float x",
            "property float x",
            "property double x",
            "property float opacity",
            "property char y",
            "comment \x00",
            "obj_info \xe9",
            "format ascii 1.0",
        ]
    ),
    max_size=6,
)


@examples
def test_ply(tmp_path, examples):
    original = written(tmp_path, "a.ply", lambda path: write_ply(path, splats()))
    ascii_file = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"
    headers = PLY_HEADERS.map(
        lambda lines: "\n".join(["ply", "format binary_little_endian 1.0", *lines, "end_header\n"]).encode("latin-1")
    )

    def read(data):
        (tmp_path / "a.ply").write_bytes(data)
        found = read_ply(tmp_path / "a.ply")
        for name in ("means", "quats", "scales", "opacities", "colors"):
            assert getattr(found, name).isfinite().all(), f"{name} holds numbers that are not finite"

    try_cases(examples, damaged(original, ascii_file) | headers, read)

"""Whatever a file or an override holds: a clean result or a one-line error, without a traceback, quickly, in little
memory. ``make test-all`` tries many more cases than ``make test``."""

import io
import json
import math
import resource
import string
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from avatar_gs.body import files as body_files
from avatar_gs.cli.compose import flatten
from avatar_gs.cli.overrides import Names, as_overrides, settings_of
from avatar_gs.core.errors import UserError
from avatar_gs.core.io import load_state, save_state
from avatar_gs.export.ply import read_ply, write_ply
from avatar_gs.identity.embedding import IdentityEmbedding, read_identity, write_identity
from avatar_gs.identity.photos import load_photos
from avatar_gs.identity.pixels import MAX_PIXELS, Unusable, decode
from avatar_gs.motion.angles import read_angles
from avatar_gs.motion.bvh import read_bvh
from avatar_gs.motion.npz import read_npz
from avatar_gs.prior.loading import lora
from avatar_gs.types import Gaussians
from avatar_gs.viewer.html import write_html

FEW, MANY = 20, 2000
examples = pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
MEMORY = 2**30
"""Bytes that a case may reserve."""


@pytest.fixture(autouse=True)
def little_memory():
    """Let a case reserve at most ``MEMORY``: more raises MemoryError, which is no clean result."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def try_cases(examples: int, cases: st.SearchStrategy, read: Callable) -> None:
    """Call ``read`` with every case; only a UserError of one line may come out."""

    @settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=examples == FEW,
    )
    @given(cases)
    def check(case):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(case)
            except UserError as error:
                assert "\n" not in str(error)

    check()


def damaged(*originals: bytes) -> st.SearchStrategy[bytes]:
    """An original file cut short, with bytes replaced, inserted or removed, or any bytes at all."""
    position, few = st.floats(0, 1), st.binary(max_size=12)
    change = st.tuples(st.sampled_from(["cut", "replace", "insert", "remove", "number"]), position, position, few)

    def apply(original: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
        data = bytearray(original)
        for kind, near, at, new in changes:
            place = int(at * 200 if near < 0.7 else at * len(data)) % max(len(data), 1)  # headers are at the start
            if kind == "cut":
                del data[place:]
            elif kind == "remove":
                del data[place : place + len(new)]
            elif kind == "number":
                data[place : place + 4] = struct.pack("<I", int(2**32 * near) % 2**32)
            else:
                data[place : place + (len(new) if kind == "replace" else 0)] = new
        return bytes(data)

    return st.builds(apply, st.sampled_from(originals), st.lists(change, max_size=4)) | st.binary(max_size=300)


def written(folder: Path, name: str, write: Callable[[Path], object]) -> bytes:
    write(folder / name)
    return (folder / name).read_bytes()


def splats(count: int = 7) -> Gaussians:
    random = torch.Generator().manual_seed(0)
    means, quats, rest = (torch.randn(count, size, generator=random) for size in (3, 4, 7))
    return Gaussians(means, quats, 0.01 + rest[:, :3].abs(), rest[:, 3].sigmoid(), rest[:, 4:].sigmoid())


# ---- splats


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


# ---- tensors


NAMES = st.sampled_from(
    [
        *("<id>", "a_v0", "a_v1", "emb_params", "clip_l", "x.hada_w1", "lora_unet_a.lora_down.weight"),
        *("lora_unet_a.lora_up.weight", "lora_unet_a.alpha", "unet.a.lora_A.weight", "unet.a.lora_B.weight"),
    ]
)
TYPES = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.float64])
SHAPES = st.lists(st.integers(0, 40), max_size=4)


def tensor(shape: list[int], dtype: torch.dtype, value: float) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.full(shape, 1.0).mul(value).to(dtype)


TENSORS = st.dictionaries(
    NAMES,
    st.builds(tensor, SHAPES, TYPES, st.sampled_from([0.0, 1.0, -1e30, math.nan, math.inf])),
    max_size=4,
)


@examples
def test_safetensors(tmp_path, examples):
    state = written(tmp_path, "s", lambda path: save_state(path, {"x": torch.ones(3, 2)}, {"step": 1}))
    person = written(tmp_path, "i", lambda path: write_identity(path, IdentityEmbedding(torch.ones(2, 8), {"a": "b"})))
    readers = (load_state, read_identity, lambda path: lora.read(str(path)))

    def read(case):
        data, which = case
        content = data if isinstance(data, bytes) else safetensors.torch.save(data, {"format": "pt"})
        (tmp_path / "a.safetensors").write_bytes(content)
        readers[which](tmp_path / "a.safetensors")

    try_cases(examples, st.tuples(damaged(state, person) | TENSORS, st.integers(0, 2)), read)


@examples
def test_pickles_of_tensors(tmp_path, examples):
    def read(case):
        data, which = case
        if isinstance(data, bytes):
            (tmp_path / "a.pt").write_bytes(data)
        else:
            torch.save(data, tmp_path / "a.pt")
        (read_identity if which else lambda path: lora.read(str(path)))(tmp_path / "a.pt")

    originals = [
        written(tmp_path, "a.pt", lambda path, content=content: torch.save(content, path))
        for content in ({"*": torch.ones(2, 8)}, torch.ones(1).expand(10**7, 10**5), {"a": [1, {2}, "b"]})
    ]
    try_cases(examples, st.tuples(damaged(*originals) | TENSORS, st.booleans()), read)


# ---- bodies


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


# ---- motions


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


# ---- images


def encoded(mode: str, size: tuple[int, int], format: str, orientation: int) -> bytes:
    """An image file, or nothing where the format has no such mode."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    try:
        Image.new(mode, size, 1).save(file, format, exif=exif)
    except (OSError, ValueError, KeyError, TypeError):
        return b""
    return file.getvalue()


IMAGES = st.builds(
    encoded,
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]),
    st.tuples(st.sampled_from([1, 2, 64, 70, 3000]), st.sampled_from([1, 5, 64, 90])),
    st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF", "MPO", "BMP", "PPM", "ICO"]),
    st.integers(0, 300),
)


@examples
def test_images(examples):
    small = [encoded("RGB", (9, 7), name, 1) for name in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF")]

    def read(data):
        try:
            image, alpha = decode(data)
        except Unusable as reason:
            assert "\n" not in str(reason)
        else:
            assert image.mode == "RGB" and (alpha is None or alpha.size == image.size)

    try_cases(examples, IMAGES | damaged(*small), read)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_thin_images_are_skipped(tmp_path, size):
    Image.new("L", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"100000.*smaller than embed\.min_size"):
        load_photos(str(tmp_path), 32)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "WEBP"])
def test_images_that_claim_too_many_pixels_are_refused_before_they_are_decoded(format):
    data = bytearray(encoded("L", (16, 16), format, 1))
    side = math.isqrt(MAX_PIXELS) + 1
    if format == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        crc = zlib.crc32(data[12:29])
        data[29:33] = struct.pack(">I", crc)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    elif format == "TIFF":
        for tag in (256, 257):
            place = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else None
            place = place if place is not None else data.index(struct.pack("<HH", tag, 3))
            data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, side)
    else:
        data = bytearray(encoded("RGB", (16, 16), format, 1))
        data[26:30] = struct.pack("<HH", 16_383, 16_383)
    with pytest.raises(Unusable, match=r"million|damaged"):
        decode(bytes(data))


# ---- text and settings


TEXTS = st.text(max_size=60) | st.text("\u202e\u200f\x00\n\r\t\\'\"${}[](),:=@#<>%~ אبשç😀👩‍👩‍👧", max_size=40)


@examples
def test_prompts_in_any_script(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)

    def read(text):
        (given,) = as_overrides({"prompt": text})
        found = settings_of([given, "name=a"])
        assert found.prompt == text
        assert yaml.safe_load(yaml.safe_dump(found.plain(), allow_unicode=True))["prompt"] == text
        assert found.folder == Path("outputs/a")

    try_cases(examples // 4, TEXTS, read)


def test_a_prompt_of_a_hundred_thousand_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(settings_of([f"prompt={'a man ' * 16_667}"]).folder.name) < 60


@examples
def test_titles_of_pages(tmp_path, examples):
    def read(title):
        write_html(tmp_path / "a.html", splats(), title)
        page = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert page.count("<script") == plain.count("<script") and page.count("<title>") == 1

    write_html(tmp_path / "a.html", splats(), "Anna")
    plain = (tmp_path / "a.html").read_text(encoding="utf-8")
    hostile = st.sampled_from(["</title><script>alert(1)</script>", "{{script}}", "<!--", "\ud800", "'\"&"])
    try_cases(examples // 4, TEXTS | hostile, read)


VALUES = st.sampled_from(
    [
        *("", "a b", "null", "-1", "0", "1e400", "nan", "inf", "-inf", "99999999999999999999", "true", "[]", "[1"),
        *("{a:1}", "???", "${oc.env:HOME}", "${a}", "../..", "a,b", "/etc/passwd", "range(3)", "choice(1,2)", "'"),
        *('"', "\\", "@x", "~x", "[nan]", "[1e9]", "0x10", "1_0", "é", "(", "=", "/dev/null", "[a,[b]]", "glob(*)"),
    ]
)


@examples
def test_overrides(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    names = Names.known()
    odd = ("hydra.run.dir", "+new", "~seed", "++seed", "x.y", "prompt@a", "-m")
    keys = [*sorted(names.keys | set(names.presets)), *odd]
    words = VALUES | st.text(string.printable, max_size=8)
    override = st.builds("{}={}".format, st.sampled_from(keys), words) | st.text(max_size=12)

    def read(overrides):
        found = settings_of(["prompt=a man", *overrides])
        values = flatten(found.plain())
        assert all(math.isfinite(value) for value in values.values() if isinstance(value, float)), values
        json.dumps(values, allow_nan=False)
        assert not any(Path().iterdir()), "nothing is written"

    try_cases(examples // 4, st.lists(override, min_size=1, max_size=2), read)

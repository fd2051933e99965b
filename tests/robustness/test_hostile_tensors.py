"""Checkpoints, identities and LoRA files that are damaged or lie."""

import math
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import nn

from avatar_gs.core.io import load_state, save_state
from avatar_gs.identity.embedding import IdentityEmbedding, read_identity, write_identity
from avatar_gs.prior.loading import lora
from tests.robustness.hostile import damaged, examples, try_cases, written

pytestmark = pytest.mark.usefixtures("little_memory")


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


class Network(nn.Module):
    """The two sorts of layers that a LoRA changes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Conv2d(4, 5, 3)


SIDES = st.sampled_from([1, 2, 3, 4, 5, 6])
FACTORS = st.dictionaries(
    st.builds(
        "{}_{}.{}".format,
        st.sampled_from(["lora_unet", "lora_te", "lora_te1"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale"]),
    ),
    st.builds(tensor, st.lists(SIDES, max_size=4), TYPES, st.sampled_from([0.0, 1.0, -1e30, math.inf])),
    max_size=6,
)


@st.composite
def matching(draw):
    """Factors whose shapes fit a layer, if ranks agree."""
    rank, other = draw(SIDES), draw(SIDES)
    value = draw(st.sampled_from([0.5, 1e30, -3e38]))
    shapes = {"a": ([rank, 4], [6, other]), "b": ([rank, 4, 3, 3], [5, other, 1, 1])}
    layer = draw(st.sampled_from(["a", "b"]))
    down, up = (torch.full(shape, value) for shape in shapes[layer])
    return {f"lora_unet_{layer}.lora_down.weight": down, f"lora_unet_{layer}.lora_up.weight": up}


@examples
def test_loras_are_fused_or_refused(tmp_path, examples):
    def read(case):
        tensors, scale = case
        (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save(tensors))
        networks = Network(), Network()
        lora.fuse([lora.read(f"{tmp_path / 'a.safetensors'}:{scale}")], *networks)
        assert all(value.isfinite().all() for network in networks for value in network.parameters())

    try_cases(examples, st.tuples(FACTORS | matching(), st.sampled_from([0, 0.5, 1, -2, 1e6])), read)

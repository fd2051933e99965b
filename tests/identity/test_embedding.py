"""Identity files: ours, other people's, and all that is wrong with the rest."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# (the annotations in diffusers are narrower than what it takes and returns)

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_gs.core.errors import UserError
from avatar_gs.identity.embedding import (
    IdentityEmbedding,
    check_fits,
    read_identity,
    text_encoder_fingerprint,
    write_identity,
)
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from tests import tiny

METADATA = {"base_model": "sd15", "method": "cross_init", "steps": "320", "source_hashes": "größer,雪"}


def rows(n: int, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n))


def refuses(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_identity(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_prior(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def prior(folder: Path) -> StableDiffusionPrior:
    return load_prior(PriorConfig(name="sd15", path=str(folder)))


# ---- our own files


@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_identity_comes_back(tmp_path: Path, n: int) -> None:
    path = tmp_path / "Zoë" / "identity.safetensors"
    write_identity(path, IdentityEmbedding(rows(n).double().requires_grad_(), METADATA))
    read = read_identity(path)
    assert torch.equal(read.vectors, rows(n).double().float())
    assert read.vectors.dtype == torch.float32
    assert not read.vectors.requires_grad
    own = {"format": "avatar_gs.identity", "format_version": "1", "tokens": str(n), "text_width": "16"}
    assert read.metadata == METADATA | own
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_identity_gives_the_same_bytes(tmp_path: Path) -> None:
    written = set()
    for _ in range(8):
        write_identity(tmp_path / "a", IdentityEmbedding(rows(2), {f"key {i}": str(i) for i in range(9)}))
        written.add((tmp_path / "a").read_bytes())
    assert len(written) == 1
    assert list(safetensors.torch.load(written.pop())) == ["<id>"]


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        write_identity(tmp_path / "a", IdentityEmbedding(torch.full((2, 16), torch.nan)))
    assert not (tmp_path / "a").exists()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    metadata = {"format": "avatar_gs.identity", "format_version": "2"}
    safetensors.torch.save_file({"<id>": rows(2)}, tmp_path / "a", metadata=metadata)
    refuses(tmp_path / "a", "format 2", "reads 1", "update")


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("prompt", ["a photo of <id> man", "<id>", "<id> in red, a woman", "<id> up <id>"])
def test_diffusers_reads_the_file_as_the_same_person(
    tmp_path: Path, prior: StableDiffusionPrior, n: int, prompt: str
) -> None:
    path = tmp_path / "identity.safetensors"
    write_identity(path, IdentityEmbedding(rows(n), METADATA))
    parts = tiny.parts(tmp_path / "tokenizer")
    del parts["controlnet"]
    pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.load_textual_inversion(str(path))
    theirs, _ = pipe.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(prior.encode_prompts([prompt], read_identity(path).vectors), theirs)
    assert (theirs - prior.encode_prompts([prompt], 0 * rows(n))).abs().max() > 0.1


# ---- other people's files


@pytest.mark.parametrize("key", ["<cat-toy>", "emb_params", "28017", "<my_v0>"])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (3, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_textual_inversions_are_read(tmp_path: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    vectors = torch.randn(shape).to(dtype)
    safetensors.torch.save_file({key: vectors}, tmp_path / "a.safetensors", metadata={"base_model": "sd21"})
    read = read_identity(tmp_path / "a.safetensors")
    assert torch.equal(read.vectors, vectors.float().reshape(-1, 16))
    assert read.metadata == {"base_model": "sd21"}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_the_legacy_pickle_is_read_in_the_order_of_its_numbers(tmp_path: Path, zipped: bool, n: int) -> None:
    content = {f"28017_v{i}": torch.nn.Parameter(rows(n)[i]) for i in reversed(range(n))}
    torch.save(content, tmp_path / "28017.pt", _use_new_zipfile_serialization=zipped)
    read = read_identity(tmp_path / "28017.pt")
    assert torch.equal(read.vectors, rows(n))
    assert not read.vectors.requires_grad
    assert read.metadata == {}


def test_other_pickles_of_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"<cat-toy>": rows(1)[0]}, tmp_path / "learned_embeds.bin")
    assert torch.equal(read_identity(tmp_path / "learned_embeds.bin").vectors, rows(1))
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows(3)}, "name": "anna", "step": 500}
    torch.save(a1111, tmp_path / "anna.pt")
    assert torch.equal(read_identity(tmp_path / "anna.pt").vectors, rows(3))


def test_the_first_programs_pickle_is_read_without_calling_anything(tmp_path: Path) -> None:
    """Its ``string_to_param`` is a torch module."""
    table = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(2))})
    content = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": table}
    torch.save(content, tmp_path / "embeddings.pt")
    read = read_identity(tmp_path / "embeddings.pt")
    assert torch.equal(read.vectors, rows(2)) and not read.vectors.requires_grad
    vars(table)["_parameters"] = 3
    torch.save(content, tmp_path / "embeddings.pt")
    refuses(tmp_path / "embeddings.pt", "is int, expected a tensor")


def test_loras_and_pointers_are_named(tmp_path: Path) -> None:
    tensors = {"lora_unet_mid_block_x.lora_down.weight": rows(2), "lora_unet_mid_block_x.lora_up.weight": rows(2)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    refuses(tmp_path / "a.safetensors", "is a LoRA", "prior.lora=")
    torch.save(tensors, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "is a LoRA", "prior.lora=")
    large = {**tensors, "lora_unet_y.lora_down.weight": torch.zeros(2**20, 5)}
    safetensors.torch.save_file(large, tmp_path / "a.safetensors")
    refuses(tmp_path / "a.safetensors", "is a LoRA", "prior.lora=")
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    refuses(tmp_path / "a.safetensors", "git-lfs pointer", "git lfs pull")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("format", ["torch", "torch, not zipped", "plain"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, format: str) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "exploded"
    content = {"28017_v0": rows(1)[0], "28017_v1": Bomb(mark)}
    if format == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "torch")
    refuses(path, "could run a program", "was not opened")
    assert not mark.exists()
    torch.load(path, weights_only=False) if format != "plain" else pickle.loads(path.read_bytes())
    assert mark.exists()  # the bomb was live


# ---- damaged and foreign files


def test_nothing_there(tmp_path: Path) -> None:
    refuses(tmp_path / "none.safetensors", "No such file", "expected an identity file")
    refuses(tmp_path, "is a folder")
    (tmp_path / "empty").touch()
    refuses(tmp_path / "empty", "is empty")
    (tmp_path / "text").write_text("not an identity at all")
    refuses(tmp_path / "text", "no identity file")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(17 * 2**20)
    refuses(tmp_path / "model.safetensors", "17 MiB", "prior=")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@given(kept=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, suffix: str, kept: float) -> None:
    path = tmp_path_factory.getbasetemp() / f"cut.{suffix}"
    if suffix == "pt":
        torch.save({f"anna_v{i}": rows(2)[i] for i in range(2)}, path)
    else:
        write_identity(path, IdentityEmbedding(rows(2), METADATA))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refuses(path)


BAD_VALUES = {
    "NaN": (torch.tensor([[1.0, torch.nan]]), "1 of its numbers are NaN or infinite"),
    "infinite": (torch.tensor([1.0, torch.inf]), "NaN or infinite"),
    "beyond float32": (torch.tensor([[1e300]], dtype=torch.float64), "NaN or infinite"),
    "zeros": (torch.zeros(3, 16), "3 of its vectors are all zeros"),
    "a row of zeros": (torch.eye(3, 16) * torch.tensor([[1.0], [0.0], [1.0]]), "1 of its vectors are all zeros"),
    "scalar": (torch.tensor(1.0), "expected floating-point numbers [d] or [n, d]"),
    "rank 3": (torch.ones(2, 3, 4), "float32 [2, 3, 4]"),
    "no vectors": (torch.ones(0, 16), "float32 [0, 16]"),
    "no width": (torch.ones(2, 0), "float32 [2, 0]"),
    "integers": (torch.ones(2, 16, dtype=torch.int64), "int64 [2, 16]"),
    "complex": (torch.ones(2, 16, dtype=torch.complex64), "complex64 [2, 16]"),
    "a model's matrix": (torch.ones(300, 16), "300 vectors, expected at most 75"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_numbers_that_are_no_embedding_are_refused(tmp_path: Path, case: str, suffix: str) -> None:
    value, words = BAD_VALUES[case]
    path = tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save({"<id>": value}, path)
    else:
        safetensors.torch.save_file({"<id>": value}, path)
    refuses(path, words)


BAD_CONTENTS = {
    "no entry": ({}, "0 entries (none)"),
    "a gap": ({"a_v0": torch.ones(4), "a_v2": torch.ones(4)}, "2 entries ('a_v0', 'a_v2')"),
    "two names": ({"a_v0": torch.ones(4), "b_v1": torch.ones(4)}, "2 entries"),
    "the same number twice": ({"a_v1": torch.ones(4), "a_v01": torch.ones(4)}, "2 entries"),
    "a model": ({f"layer.{i}.weight": torch.ones(4) for i in range(9)}, "9 entries ('layer.0.weight', "),
    "matrices": ({"a_v0": torch.ones(2, 4), "a_v1": torch.ones(2, 4)}, "'a_v0' is float32 [2, 4], expected"),
    "two widths": ({"a_v0": torch.ones(4), "a_v1": torch.ones(5)}, "differ in width (4, 5)"),
    "half of one for XL": ({"clip_l": torch.ones(2, 768)}, "Stable Diffusion XL"),
    "for XL": ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "Stable Diffusion XL"),
}


@pytest.mark.parametrize("case", BAD_CONTENTS)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_entries_that_are_no_embedding_are_refused(tmp_path: Path, case: str, suffix: str) -> None:
    content, words = BAD_CONTENTS[case]
    path = tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save(content, path)
    else:
        safetensors.torch.save_file(content, path)
    refuses(path, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(1, 1).expand(100_000, 100_000), "[100000, 100000]"),
        (torch.ones(4).to_sparse(), "expected floating-point numbers"),
        ([1.0, 2.0], "'' is list, expected a tensor"),
        ({"<id>": [1.0, 2.0]}, "'<id>' is list, expected a tensor"),
        ({"epoch_v0": 3, "epoch_v1": 4}, "'epoch_v0' is int"),
    ],
)
def test_other_contents_of_a_pickle_are_refused(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", words)


# ---- which prior a file is for


def refuses_prior(embedding: IdentityEmbedding, prior: StableDiffusionPrior, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_fits(embedding, prior, "identity=anna.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    for word in ("identity=anna.safetensors", "prior=sd15", *words):
        assert word in message, message


def test_another_width_is_refused_with_the_model_it_is_for(prior: StableDiffusionPrior) -> None:
    check_fits(IdentityEmbedding(rows(2, 16)), prior)
    refuses_prior(
        IdentityEmbedding(rows(2, 768)), prior, "768 wide, such as Stable Diffusion 1.5's", "reads text 16 wide"
    )
    refuses_prior(IdentityEmbedding(rows(2, 1024)), prior, "1024 wide, such as Stable Diffusion 2.1's")
    refuses_prior(IdentityEmbedding(rows(2, 1280)), prior, "1280 wide, such as Stable Diffusion XL's")
    refuses_prior(IdentityEmbedding(rows(2, 24)), prior, "for a text encoder 24 wide;")
    refuses_prior(IdentityEmbedding(rows(2, 128), {"base_model": "mini"}), prior, "for mini, whose", "128 wide")


def test_more_vectors_than_the_prior_reads_are_refused(prior: StableDiffusionPrior) -> None:
    check_fits(IdentityEmbedding(rows(tiny.TOKEN_LENGTH - 2)), prior)
    refuses_prior(IdentityEmbedding(rows(tiny.TOKEN_LENGTH - 1)), prior, "15 vectors", "reads 14 tokens")


def test_embeddings_of_another_magnitude_are_refused(prior: StableDiffusionPrior) -> None:
    usual = prior.token_embeddings("a man in red").norm(dim=1).median() / 4
    check_fits(IdentityEmbedding(torch.ones(2, 16) * usual * 100), prior)
    refuses_prior(IdentityEmbedding(torch.ones(2, 16) * usual * 10_000), prior, "times larger than those of")
    refuses_prior(IdentityEmbedding(torch.ones(2, 16) * usual / 10_000), prior, "times smaller than those of")


@pytest.fixture(scope="module")
def relatives(folder: Path) -> dict[str, StableDiffusionPrior]:
    """The prior, fine-tuned, in half precision, and one of the same width that has nothing to do with it."""
    made = {name: load_prior(PriorConfig(name="sd15", path=str(folder))) for name in ("tuned", "half", "other")}
    with torch.no_grad():
        table = {name: relative.text_encoder.get_input_embeddings().weight for name, relative in made.items()}
        torch.manual_seed(1)
        table["tuned"] += 0.1 * table["tuned"].std() * torch.randn_like(table["tuned"])
        table["half"].copy_(table["half"].half())
        table["other"].copy_(table["other"].std() * torch.randn_like(table["other"]))
    return made


def test_another_text_encoder_of_the_same_width_is_refused(
    prior: StableDiffusionPrior, relatives: dict[str, StableDiffusionPrior]
) -> None:
    known = {"base_model": "anime-model", "text_encoder": text_encoder_fingerprint(prior)}
    check_fits(IdentityEmbedding(rows(2), known), prior)
    check_fits(IdentityEmbedding(rows(2), known), relatives["tuned"])
    check_fits(IdentityEmbedding(rows(2), known), relatives["half"])
    check_fits(IdentityEmbedding(rows(2), {"base_model": "anime-model"}), relatives["other"])
    refuses_prior(
        IdentityEmbedding(rows(2), known), relatives["other"], "anime-model", "not that of", "both are 16 wide"
    )
    refuses_prior(IdentityEmbedding(rows(2), {"text_encoder": "made elsewhere"}), prior, "another model")


def test_fingerprints_tell_encoders_apart_by_a_wide_margin(
    prior: StableDiffusionPrior, relatives: dict[str, StableDiffusionPrior]
) -> None:
    def differing(name: str) -> int:
        return (
            int(text_encoder_fingerprint(prior), 16) ^ int(text_encoder_fingerprint(relatives[name]), 16)
        ).bit_count()

    assert len(text_encoder_fingerprint(prior)) == 16
    assert differing("half") <= 1
    assert differing("tuned") <= 7
    assert 20 <= differing("other") <= 44

"""LoRA files of every program: the fused weights are W + scale alpha/r up down, and what does not fit is one line."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import Precision, PriorConfig, lora_entry
from avatar_gs.prior.loading import lora
from avatar_gs.prior.stable_diffusion import load_prior
from tests import full, tiny

RANK, ALPHA, SCALE = 3, 2.0, 0.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def plain(folder):
    return load(folder)


def load(folder, *entries, **more):
    return load_prior(PriorConfig(name="custom", path=str(folder), lora=[str(entry) for entry in entries], **more))


def refuses(folder, entry, *words):
    with pytest.raises(UserError) as caught:
        load(folder, entry)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def layers(network, *ends):
    """``{path: layer}`` of the linear layers and convolutions whose paths end so."""
    found = {
        name.removeprefix("text_model."): module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(ends)
    }
    assert found
    return found


def factors(module, seed, rank=RANK):
    """``(down, up)``, random, of a layer."""
    generator = torch.Generator().manual_seed(seed)
    out, into, *kernel = module.weight.shape
    down = torch.randn(rank, into, *kernel, generator=generator)
    return down, torch.randn(out, rank, *(1 for _ in kernel), generator=generator)


def product(down, up):
    """up @ down in float64, in the layer's shape."""
    return torch.einsum("or,ri...->oi...", up.double().flatten(1), down.double())


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
SELF_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
OF_UNET = (*ATTENTION, "proj_in", "ff.net.0.proj", "conv1", "time_emb_proj", "conv_shortcut", "conv_in")


def changes(prior):
    """``{(network, path): (down, up)}`` for layers of every type."""
    made = {}
    for network, found in (
        ("unet", layers(prior.unet, *OF_UNET)),
        ("text_encoder", layers(prior.text_encoder, *SELF_ATTENTION, "fc1", "fc2")),
    ):
        made |= {(network, path): factors(module, len(made) + i) for i, (path, module) in enumerate(found.items())}
    return made


def kohya(made, alpha=ALPHA):
    tensors = {}
    for (network, path), (down, up) in made.items():
        start = "lora_unet_" if network == "unet" else "lora_te_text_model_"
        name = start + path.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def peft(made, start=("unet.", "text_encoder.text_model.")):
    tensors = {}
    for (network, path), (down, up) in made.items():
        name = f"{start[0] if network == 'unet' else start[1]}{path}"
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return tensors


def first_names(made):
    """As the first versions of diffusers: layers of attention only, named after the processor."""
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}
    tensors = {}
    for (network, path), (down, up) in made.items():
        end = next((end for end in old if path.endswith(end)), path.rpartition(".")[2])
        name = f"{path.removesuffix(end)}{old.get(end, end)}"
        if network == "unet":
            head, _, last = name.rpartition(".")
            name = f"unet.{head}.processor.{last}"
        else:
            name = f"text_encoder.text_model.{name}"
        tensors |= {f"{name}_lora.down.weight": down, f"{name}_lora.up.weight": up}
    return tensors


def later_names(made):
    tensors = {}
    for (network, path), (down, up) in made.items():
        name, middle = (
            (f"unet.{path}", "lora") if network == "unet" else (f"text_encoder.text_model.{path}", "lora_linear_layer")
        )
        tensors |= {f"{name}.{middle}.down.weight": down, f"{name}.{middle}.up.weight": up}
    return tensors


def equals(prior, plain, expected):
    """Each layer's weight is the plain one plus ``expected[network, path]`` (none: nothing), to float precision."""
    for network in ("unet", "text_encoder"):
        before = dict(getattr(plain, network).named_parameters())
        for name, value in getattr(prior, network).named_parameters():
            path = name.removeprefix("text_model.").removesuffix(".weight")
            delta = expected.get((network, path)) if name.endswith(".weight") else None
            if delta is None:
                assert torch.equal(value, before[name]), name
                continue
            wanted = before[name].double() + delta.reshape(value.shape)
            torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=2e-6)
            assert not torch.equal(value, before[name])


@pytest.mark.parametrize("alpha", [ALPHA, None])
def test_kohyas_names(folder, plain, tmp_path, alpha):
    made = changes(plain)
    save_file(kohya(made, alpha), tmp_path / "a.safetensors")
    strength = SCALE * (1.0 if alpha is None else alpha / RANK)
    prior = load(folder, f"{tmp_path / 'a.safetensors'}:{SCALE}")
    equals(prior, plain, {key: strength * product(*pair) for key, pair in made.items()})
    assert not any(parameter.requires_grad for parameter in prior.unet.parameters())
    assert {type(module) for module in prior.unet.modules()} == {type(module) for module in plain.unet.modules()}


@pytest.mark.parametrize("naming", [peft, first_names, later_names])
def test_names_of_diffusers(folder, plain, tmp_path, naming):
    ends = (*ATTENTION, *SELF_ATTENTION) if naming is first_names else (*ATTENTION, *SELF_ATTENTION, "proj", "fc1")
    made = {key: pair for key, pair in changes(plain).items() if key[1].endswith(ends)}
    save_file(naming(made), tmp_path / "a.safetensors")
    equals(load(folder, tmp_path / "a.safetensors"), plain, {key: product(*pair) for key, pair in made.items()})


@pytest.mark.parametrize("ranked", [False, True])
def test_a_folder_of_peft(folder, plain, tmp_path, ranked):
    """PEFT writes alpha into another file of the folder; rank-stabilised ones divide by the root of the rank."""
    made = {key: pair for key, pair in changes(plain).items() if key[0] == "unet" and key[1].endswith(ATTENTION)}
    first = next(path for _, path in made)
    save_file(peft(made, ("base_model.model.", "")), tmp_path / "adapter_model.safetensors")
    settings = {"lora_alpha": ALPHA, "r": RANK, "use_rslora": ranked, "alpha_pattern": {first: 5.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    expected = {
        key: (5.0 if key[1] == first else ALPHA) / (RANK**0.5 if ranked else RANK) * product(*pair)
        for key, pair in made.items()
    }
    equals(load(folder, tmp_path / "adapter_model.safetensors"), plain, expected)


def test_files_that_diffusers_writes(folder, plain, tmp_path):
    """Its pipeline's own file of trained adapters, with alpha in the metadata; and the same as Kohya names it."""
    parts = tiny.parts(tmp_path / "parts")
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(ATTENTION), init_lora_weights="gaussian")
    parts["unet"].add_adapter(config)
    for name, parameter in parts["unet"].named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    state = get_peft_model_state_dict(parts["unet"])
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=state, weight_name="a.safetensors", unet_lora_adapter_metadata=config.to_dict()
    )
    expected = {}
    for key in (key for key in state if key.endswith("lora_A.weight")):
        path = key.removesuffix(".lora_A.weight")
        expected["unet", path] = ALPHA / RANK * product(state[key], state[f"{path}.lora_B.weight"])
    equals(load(folder, tmp_path / "a.safetensors"), plain, expected)
    save_file(
        convert_state_dict_to_kohya({f"unet.{key}": value for key, value in state.items()}), tmp_path / "k.safetensors"
    )
    equals(
        load(folder, tmp_path / "k.safetensors"), plain, {key: RANK / ALPHA * delta for key, delta in expected.items()}
    )


def test_the_same_as_diffusers_own_loader(folder, plain, tmp_path):
    made = {key: pair for key, pair in changes(plain).items() if key[0] == "unet" and key[1].endswith(ATTENTION)}
    save_file(kohya(made), tmp_path / "a.safetensors")
    theirs = tiny.parts(tmp_path / "parts")["unet"]
    state, alphas, *_ = StableDiffusionPipeline.lora_state_dict(tmp_path / "a.safetensors")
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, theirs)
    theirs.fuse_lora(SCALE)
    theirs.unload_lora()
    found = load(folder, f"{tmp_path / 'a.safetensors'}:{SCALE}").unet.state_dict()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_doubly_factorised_convolutions(folder, plain, tmp_path):
    """LoCon's middle kernel: three convolutions in a row are one whose kernel is the product."""
    (path, module), *_ = layers(plain.unet, "conv1").items()
    out, into, high, wide = module.weight.shape
    generator = torch.Generator().manual_seed(1)
    down, middle = (
        torch.randn(RANK, into, 1, 1, generator=generator),
        torch.randn(2, RANK, high, wide, generator=generator),
    )
    up = torch.randn(out, 2, 1, 1, generator=generator)
    name = f"lora_unet_{path.replace('.', '_')}"
    parts = {"lora_down.weight": down, "lora_mid.weight": middle, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}
    save_file({f"{name}.{key}": value for key, value in parts.items()}, tmp_path / "a.safetensors")
    found = load(folder, tmp_path / "a.safetensors").unet.get_submodule(path).weight - module.weight
    image = torch.randn(1, into, 7, 7, generator=generator)
    conv = nn.functional.conv2d
    expected = conv(conv(conv(image, down), middle, padding=1), up) * ALPHA / RANK
    torch.testing.assert_close(conv(image, found, padding=1), expected, rtol=1e-4, atol=1e-4)


def test_several_with_their_scales(folder, plain, tmp_path):
    made = changes(plain)
    keys = list(made)
    files = []
    for index, chosen in enumerate((keys, keys[::2])):
        files.append(tmp_path / f"{index}, of two: [x].safetensors")
        save_file(kohya({key: made[key] for key in chosen}), files[-1])
    expected = {key: ALPHA / RANK * (0.5 + (-1.5 if key in keys[::2] else 0.0)) * product(*made[key]) for key in keys}
    equals(load(folder, f"{files[0]}:0.5", f"{files[1]}:-1.5"), plain, expected)


def test_a_pickle_and_half_precision(folder, plain, tmp_path):
    made = changes(plain)
    torch.save({key: value.half() for key, value in kohya(made).items()}, tmp_path / "a.pt")
    expected = {key: ALPHA / RANK * product(*(part.half() for part in pair)) for key, pair in made.items()}
    equals(load(folder, tmp_path / "a.pt"), plain, expected)


def test_sixteen_bits_are_rounded_once(folder, plain, tmp_path):
    """The sum is taken in float32, also of several files."""
    made = {key: pair for key, pair in changes(plain).items() if key[0] == "unet"}
    save_file(kohya(made), tmp_path / "a.safetensors")
    entry = f"{tmp_path / 'a.safetensors'}:0.01"
    prior = load(folder, *[entry] * 4, precision=Precision.bfloat16)
    for (_, path), pair in made.items():
        before = plain.unet.get_submodule(path).weight.bfloat16().double()
        expected = before + (0.04 * ALPHA / RANK * product(*pair)).reshape(before.shape)
        error = (prior.unet.get_submodule(path).weight.double() - expected).abs()
        assert (error <= expected.abs() * 2.0**-8 + 1e-6).all()


@pytest.mark.parametrize("family", full.FAMILIES)
def test_the_true_layouts(family, tmp_path):
    """Every layer that Kohya's trainers change in SD 1.5 and 2.1, with few channels."""
    parts = full.few(tmp_path, family)
    unet, text = parts["unet"], parts["text_encoder"]
    ends = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
    made = {("unet", path): factors(module, 1) for path, module in layers(unet, *ends).items() if "attentions" in path}
    assert len(made) == 16 * (8 + 2 + 2)
    made |= {
        ("text_encoder", path): factors(module, 2)
        for path, module in layers(text, *SELF_ATTENTION, "fc1", "fc2").items()
    }
    save_file(kohya(made), tmp_path / "a.safetensors")
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    lora.fuse([lora.read(str(tmp_path / "a.safetensors"))], unet, text)
    for (network, path), pair in made.items():
        if network == "unet":
            weight = before[f"{path}.weight"].double()
            wanted = weight + (ALPHA / RANK * product(*pair)).reshape(weight.shape)
            torch.testing.assert_close(unet.get_submodule(path).weight.double(), wanted, rtol=1e-5, atol=2e-6)


def test_what_is_no_lora_for_this_prior(folder, plain, tmp_path):
    made = {key: pair for key, pair in changes(plain).items() if key[1].endswith("to_k")}
    good, file = kohya(made), tmp_path / "a.safetensors"

    def refused(tensors, *words):
        save_file({key: value.contiguous() for key, value in tensors.items()}, file)
        refuses(folder, file, "prior.lora=", str(file), *words)

    refuses(folder, "/nowhere/a.safetensors", "prior.lora=/nowhere/a.safetensors", "no such file")
    refused({}, "empty")
    cross = next(key for key in good if key.endswith("attn2_to_k.lora_down.weight"))
    for width, model in ((768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (2048, "Stable Diffusion XL")):
        other = {
            k: torch.zeros(RANK, width) if k.endswith("attn2_to_k.lora_down.weight") else v for k, v in good.items()
        }
        refused(other, f"made for another model ({model})", cross.removeprefix("lora_unet_").partition(".")[0])
    refused({**good, "lora_te2_text_model_x.lora_up.weight": torch.zeros(1)}, "belongs to Stable Diffusion XL")
    refused({f"transformer.blocks.0.attn.to_k.lora_{part}.weight": torch.zeros(1, 1) for part in "AB"}, "Flux")
    deeper = {key.replace("down_blocks_0", "down_blocks_7"): value for key, value in good.items()}
    refused(deeper, "of its layers are not in this prior", "down_blocks_7")
    refused(
        {key.replace("blocks", "bricks").replace("mid_block", "x"): value for key, value in good.items()}, "none of"
    )
    refused({**good, cross: good[cross] * float("nan")}, cross, "NaN")
    refused({key: value for key, value in good.items() if key != cross}, "incomplete")
    refused({**good, cross: good[cross][:2]}, "do not fit together")
    refused({**good, "bundle_emb.x": torch.zeros(2)}, "'bundle_emb.x' is no part of a LoRA")
    refused({**good, cross.replace("lora_down.weight", "dora_scale"): torch.ones(1)}, "DoRA")
    refused({"lora_unet_x.hada_w1_a": torch.ones(1)}, "LoHa")
    refused({"<id>": torch.zeros(2, 16)}, "an embedding goes to identity=")
    refused({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 16)}, "a whole checkpoint goes to prior=")
    save_file(good, file)
    file.write_bytes(file.read_bytes()[:-100])
    refuses(folder, file, "prior.lora=", "damaged or cut short")


def test_a_lora_that_makes_weights_infinite(folder, plain, tmp_path):
    made = {key: pair for key, pair in changes(plain).items() if key[1].endswith("to_k")}
    save_file({key: value * 1e20 for key, value in kohya(made).items()}, tmp_path / "a.safetensors")
    refuses(folder, tmp_path / "a.safetensors", "infinite in float32", "smaller scale")


def test_a_lora_in_another_settings_place(folder, plain, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(kohya(changes(plain)), file)
    for setting in ("path", "controlnet", "vae"):
        with pytest.raises(UserError, match=r"is a LoRA: give it with prior.lora="):
            load_prior(PriorConfig(**{"name": "custom", "path": str(folder), setting: str(file)}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a/b.safetensors", ("/a/b.safetensors", 1.0)),
        ("/a/b.safetensors:0.8", ("/a/b.safetensors", 0.8)),
        ("c:/a, b:x.safetensors:-1e-1", ("c:/a, b:x.safetensors", -0.1)),
        ("c:/a.safetensors", ("c:/a.safetensors", 1.0)),
        ("7", ("7", 1.0)),
    ],
)
def test_entries(text, expected):
    assert lora_entry(text) == expected


@pytest.mark.parametrize("entry", ["", ":0.5", "a:nan", "a:inf", "a:11"])
def test_entries_that_cannot_be(entry):
    with pytest.raises(UserError, match=r"prior\.lora.*expected <file>"):
        PriorConfig(lora=[entry])


def test_digests_tell_files_and_scales_apart(tmp_path, plain):
    file = tmp_path / "a.safetensors"
    save_file(kohya(changes(plain)), file)
    other = shutil.copy(file, tmp_path / "b.safetensors")
    assert lora.digest([]) == ""
    first = lora.digest([str(file)])
    assert first.startswith("a.safetensors:1:") and lora.digest([f"{file}:0.5"]) != first != lora.digest([str(other)])

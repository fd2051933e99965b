"""Any CLIP by folder: a real one, tiny, saved as transformers saves it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from avatar_gs.core.errors import UserError
from avatar_gs.lab.metrics.clip import PACKAGED, features_of, load_clip
from tests.tiny import save_tokenizer

SIZE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def save_clip(folder: Path) -> Path:
    tokenizer = save_tokenizer(folder)
    torch.manual_seed(0)
    layer = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**layer, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 12}
    vision = {**layer, "image_size": SIZE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)).save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    processor = CLIPImageProcessor(
        size=size, do_center_crop=False, image_mean=[0.3, 0.4, 0.5], image_std=[0.2, 0.3, 0.4]
    )
    processor.save_pretrained(folder)
    return folder


def test_a_folder_gives_what_transformers_gives(folder):
    clip = load_clip(str(folder))
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    pixels = processor([*images], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        pooled = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    expected = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    np.testing.assert_allclose(features_of(images / 255.0, clip.image_features), expected, atol=1e-5)
    np.testing.assert_allclose(features_of(images / 255.0, clip.person_features), expected, atol=1e-5)
    texts = clip.text_features(["a red shirt", "a very tall man in blue trousers " * 4])
    assert texts.shape == (2, 10) and torch.allclose(texts.norm(dim=-1), torch.ones(2))


def test_texts_do_not_depend_on_their_neighbours(folder):
    clip = load_clip(str(folder))
    alone = clip.text_features(["a red shirt"])
    torch.testing.assert_close(clip.text_features(["a red shirt", "a man in a very tall blue shirt"])[:1], alone)


def test_images_of_any_size_with_gradients(folder):
    clip = load_clip(str(folder))
    images = torch.rand(18, 40, 40, 3, requires_grad=True)  # more than one batch
    features = clip.image_features(images)
    (features @ clip.text_features(["a red shirt"]).T).sum().backward()
    assert features.shape == (18, 10) and images.grad is not None
    assert bool((images.grad.flatten(1).norm(dim=1) > 0).all())


def test_the_packaged_scorer_is_the_default_and_tells_people_apart_by_a_part(folder):
    clip = load_clip("")
    images = torch.rand(2, 16, 16, 3)
    assert clip.name == PACKAGED and clip.fingerprint != load_clip(str(folder)).fingerprint
    assert clip.person_features(images).shape[1] < clip.image_features(images).shape[1]


def test_what_is_no_clip_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"evaluate\.clip=\./nowhere: no such folder"):
        load_clip("./nowhere")
    with pytest.raises(UserError, match="no such folder, and no hub name"):
        load_clip("nowhere")
    pickled = tmp_path / "pickled"
    save_clip(pickled)
    torch.save(CLIPModel.from_pretrained(pickled).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_clip(str(pickled))
    bare = tmp_path / "bare"
    save_clip(bare)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json"):
        load_clip(str(bare))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["CLIPModel"]

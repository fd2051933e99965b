"""``<id>`` in prompts: its position, its embeddings, the unchanged text encoder, and names that a prior knows."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.core.presets import read_preset
from avatar_gs.lab.world.people import individuals
from avatar_gs.prior.config import PriorConfig, PromptConfig, PromptStyle
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.prompt_encoder import _replaced_embeddings, placed_tokens, truncate
from avatar_gs.prior.prompts import PLACEHOLDER, bucket_prompts, fit_prompt, with_accessories, with_placeholder
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior, load_prior
from avatar_gs.prior.vocabulary import WELL_KNOWN, Words, known_names
from avatar_gs.protocols import IdentityPrior
from avatar_gs.types import Bucket, Framing, ViewDirection
from tests import tiny


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return StableDiffusionPrior(Parts(**tiny.parts(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture
def rows():
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def test_the_placeholder_takes_as_many_tokens_as_it_has_embeddings(prior):
    ids, places = placed_tokens(prior.tokenizer, 12, "a red <id> in <id>", 2)
    word = lambda text: prior.tokenizer(text, add_special_tokens=False).input_ids[0]
    assert places.tolist() == [-1, -1, -1, 0, 1, -1, 0, 1, -1, -1, -1, -1]
    assert ids[[1, 2, 5]].tolist() == [word("a"), word("red"), word("in")]
    assert ids[0] == prior.tokenizer.bos_token_id and ids[8] == prior.tokenizer.eos_token_id
    ids, places = placed_tokens(prior.tokenizer, 5, "a red <id>", 9)
    assert places.tolist() == [-1, -1, -1, 0, -1] and ids[4] == prior.tokenizer.eos_token_id, "cut like any long prompt"


def test_the_embeddings_of_a_word_mean_the_word(prior):
    """With the embeddings of "tall man", ``<id>`` means the same at any position and any number of times."""
    same = prior.token_embeddings("tall man")
    assert same.shape == (2, prior.text_width) == (2, 16)
    prompts = ["a <id> in red", "<id>", "<id>, <id>", "no <id>: " + "red " * 20, "a red shirt", ""]
    expected = prior.encode_prompts([prompt.replace("<id>", "tall man") for prompt in prompts])
    torch.testing.assert_close(prior.encode_prompts(prompts, same), expected)


def test_further_words_stand_for_embeddings(prior, rows):
    known = prior.with_embeddings({"<ink>": prior.token_embeddings("tall man"), "<cloak>": rows})
    prompts = ["a <ink> in red", "<ink>, <ink>", "no word of them"]
    expected = prior.encode_prompts([prompt.replace("<ink>", "tall man") for prompt in prompts])
    torch.testing.assert_close(known.encode_prompts(prompts), expected)
    together = known.encode_prompts(["a <id> in <ink>", "<cloak> of a <id>"], prior.token_embeddings("red head"))
    torch.testing.assert_close(together[0], prior.encode_prompts(["a red head in tall man"])[0])
    torch.testing.assert_close(together[1], prior.encode_prompts(["<id> of a red head"], rows)[0])
    room = known.token_length - 2 - len(rows)
    assert known.truncate("red " * room + "<cloak>")[1] == ""
    assert known.truncate("red " * (room + 1) + "<cloak>")[1].strip() == "<cloak>"
    assert prior.encode_prompts(["a <ink>"]).shape == expected[:1].shape, "the prior itself knows no such word"


def test_other_embeddings_change_conditions_only_from_their_position_on(prior, rows):
    found, plain = prior.encode_prompts(["a red <id> in", "a red man in"], rows)
    torch.testing.assert_close(found[:3], plain[:3])
    assert ((found[3:] - plain[3:]).abs().amax(-1) > 1e-3).all()


def test_gradients_reach_every_embedding(prior, rows):
    rows.requires_grad_(True)
    prior.encode_prompts(["a <id>"], rows)[0, -1].square().sum().backward()
    assert (rows.grad.abs().sum(-1) > 0).all()
    assert all(parameter.grad is None for parameter in prior.text_encoder.parameters())


def test_several_threads_add_up_the_same_gradient_every_time():
    """The sum of the gradients of many prompts must not depend on which thread is first."""
    words, width = torch.nn.Embedding(10, 128), 128
    encoder = SimpleNamespace(get_input_embeddings=lambda: words)
    places = torch.randint(-1, 8, (32, 64), generator=torch.Generator().manual_seed(0))
    factors = torch.randn(32, 64, width, generator=torch.Generator().manual_seed(1))
    identity = torch.randn(8, width, generator=torch.Generator().manual_seed(2)).requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = set()
        for _ in range(60):
            with _replaced_embeddings(encoder, places, identity):
                loss = (words(places.clamp(min=0)) * factors).sum()
            found.add(torch.autograd.grad(loss, identity)[0].numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_the_text_encoder_stays_as_it_is(prior, rows):
    state = copy.deepcopy(prior.text_encoder.state_dict())
    before = prior.encode_prompts(["a man"])
    prior.encode_prompts(["a <id>"], rows)
    with pytest.raises(RuntimeError):
        prior.encode_prompts(["a <id>"], torch.zeros(2, 99))
    torch.testing.assert_close(prior.encode_prompts(["a man"]), before, rtol=0, atol=0)
    assert all(torch.equal(value, state[name]) for name, value in prior.text_encoder.state_dict().items())


def test_the_placeholder_is_an_error_without_an_identity(prior, rows):
    assert isinstance(prior, IdentityPrior) and prior.identity is None
    with pytest.raises(UserError, match=r"photos=<folder>.*identity=<file>"):
        prior.encode_prompts(["a man", "<id> in red"])
    known = copy.copy(prior)
    known.identity = rows
    torch.testing.assert_close(known.encode_prompts(["<id> in red"]), prior.encode_prompts(["<id> in red"], rows))
    torch.testing.assert_close(known.encode_prompts(["<id>"], rows[:1]), prior.encode_prompts(["<id>"], rows[:1]))


def test_prediction_types(tmp_path, prior):
    assert prior.prediction_type == "epsilon"
    assert StableDiffusionPrior(Parts(**tiny.parts(tmp_path, "sd21"))).prediction_type == "v_prediction"


@pytest.mark.parametrize(("n", "kept"), [(1, "a <id> in red "), (4, "a <id> in "), (5, "a <id> "), (8, "a ")])
def test_truncation_counts_the_identitys_tokens(prior, n, kept):
    prompt = "a <id> in red xylophone"
    assert truncate(prior.tokenizer, 8, prompt, identity_tokens=n)[0] == kept[: len(prompt)]
    known = copy.copy(prior)
    known.identity = torch.zeros(12, 16)
    assert known.truncate("a <id> red in") == ("a <id> red ", "in")


@pytest.mark.parametrize("framings", [["head"], ["body", "head", "upper", "lower"]])
@pytest.mark.parametrize("style", list(PromptStyle))
def test_view_words_survive_with_an_identity(prior, style, framings):
    class Long:
        def truncate(self, prompt, reserve=""):
            return truncate(prior.tokenizer, 90, prompt, reserve, 5)

    words = PromptConfig(style=style, identity_framings=framings)
    kept, cut = fit_prompt(Long(), "<id> in a red shirt " * 3 + "a tall man " * 30, words)
    assert cut and kept.startswith("<id> in a red shirt")
    for prompt in bucket_prompts(kept, "", words).values():
        ids, places = placed_tokens(prior.tokenizer, 1000, prompt.positive, 5)
        assert int((ids != prior.tokenizer.pad_token_id).sum()) <= 89
        assert bool((places >= 0).any()) == (PLACEHOLDER in prompt.positive)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "<id>"),
        ("  ", "<id>"),
        ("wearing a raincoat", "<id> wearing a raincoat"),
        ("In red", "<id> In red"),
        ("a raincoat", "<id>, a raincoat"),
        ("a red <id>", "a red <id>"),
    ],
)
def test_a_prompt_that_names_nobody_gets_the_person_in_front(prompt, expected):
    assert with_placeholder(prompt) == expected


@pytest.mark.parametrize("preset", ["sd15", "sd21", "custom"])
def test_stable_diffusion_gets_the_identity_only_where_a_face_is_large(preset):
    words = read_preset("prior", preset).values["prompts"]
    prompts = bucket_prompts("<id> in a coat", "", PromptConfig(**words | {"style": PromptStyle.sd}))
    named = {str(bucket) for bucket, prompt in prompts.items() if PLACEHOLDER in prompt.positive}
    assert named == {"head/front", "head/side", "upper/front", "upper/side"}
    assert prompts[Bucket(Framing.BODY, ViewDirection.BACK)].positive.startswith(
        "back view of a person from behind, back of the head, full body, a person in a coat"
    )


def test_the_packaged_prior_gets_the_identity_in_every_view():
    prompts = bucket_prompts("<id> in a coat", "", PromptConfig())
    assert all(prompt.positive.startswith("<id> in a coat, ") for prompt in prompts.values())
    with pytest.raises(UserError, match=r"identity_framings: feet is none of body, head"):
        PromptConfig(identity_framings=["feet"])


def test_known_names(tmp_path):
    names = known_names(MINI_PRIOR)
    assert len(names) == len(set(names)) == 200
    assert load_prior(PriorConfig()).known_names == names
    assert Words().known_names == known_names(tmp_path) == WELL_KNOWN
    assert len(set(WELL_KNOWN)) == len(WELL_KNOWN) >= 60
    (tmp_path / "names.json").write_text(json.dumps(["Ada Lovelace"]))
    assert known_names(tmp_path) == ("Ada Lovelace",)
    for wrong in ("{", "[]", '{"a": 1}', "[1]", '[" "]'):
        (tmp_path / "names.json").write_text(wrong)
        with pytest.raises(UserError, match=r"names\.json"):
            known_names(tmp_path)


def test_the_packaged_names_are_the_mini_worlds():
    assert known_names(MINI_PRIOR) == tuple(person.name for person in individuals())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<id>", "<id> wearing a red hat"),
        ("<id>, smiling like <id>", "<id> wearing a red hat, smiling like <id>"),
        ("<id> wearing a raincoat", "<id> wearing a raincoat"),
        ("<id> Dressed in blue", "<id> Dressed in blue"),
        ("<id> in a raincoat", "<id> in a raincoat"),
        ("a person", "a person"),
    ],
)
def test_a_hat_comes_off_with_another_outfit_only(prompt, expected):
    assert with_accessories(prompt, "a red hat") == expected
    assert with_accessories(prompt, "") == prompt

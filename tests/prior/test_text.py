import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_gs.prior.config import PromptConfig, PromptStyle
from avatar_gs.prior.prompt_encoder import truncate
from avatar_gs.prior.prompts import bucket_prompts, fit_prompt
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def count(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_prompt_that_fits_is_kept(tokenizer):
    prompt = " ".join(["red"] * (tiny.TOKEN_LENGTH - 2))
    assert truncate(tokenizer, tiny.TOKEN_LENGTH, prompt) == (prompt, "")


def test_the_cut_part_is_named(tokenizer):
    kept, cut = truncate(tokenizer, tiny.TOKEN_LENGTH, "a " * 13 + "Red Blue, green")
    assert (kept, cut) == ("a " * 13 + "Red ", "Blue, green")


def test_room_is_reserved_for_other_words(tokenizer):
    kept, cut = truncate(tokenizer, 10, "a man in a red shirt", reserve=", full body")
    assert (kept, cut) == ("a man in a red ", "shirt")


def test_no_half_words(tokenizer):
    kept, cut = truncate(tokenizer, 8, "a red xylophone")
    assert (kept, cut) == ("a red ", "xylophone")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_what_is_kept_fits_and_nothing_is_lost(tokenizer, prompt):
    kept, cut = truncate(tokenizer, 12, prompt)
    assert kept + cut == prompt
    assert count(tokenizer, kept) <= 10
    assert bool(cut) == (count(tokenizer, prompt) > 10)


@pytest.mark.parametrize("style", list(PromptStyle))
def test_view_words_survive_a_long_sentence(tokenizer, style):
    class Prior:
        def truncate(self, prompt, reserve=""):
            return truncate(tokenizer, 90, prompt, reserve)

    config = PromptConfig(style=style, suffix="very tall")
    kept, cut = fit_prompt(Prior(), "a man in a red shirt " * 30, config)
    assert cut and kept.startswith("a man in a red shirt")
    for prompt in bucket_prompts(kept, "", config).values():
        assert count(tokenizer, prompt.positive) <= 88

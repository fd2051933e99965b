"""Which words a prior has for what photos show."""

import json

import pytest

from avatar_gs.core.errors import UserError
from avatar_gs.core.paths import MINI_PRIOR
from avatar_gs.lab.world.vocabulary import descriptions, words
from avatar_gs.prior.config import PriorConfig
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.prior.vocabulary import COMMON, FILE, Words, describable


def test_the_packaged_prior_has_descriptions_in_its_vocabulary():
    own = describable(MINI_PRIOR)
    assert json.loads((MINI_PRIOR / FILE).read_text()) == descriptions()
    assert load_prior(PriorConfig()).describable == own
    said = {
        word
        for part in (own.person, *own.looks.values(), *own.clothes.values())
        for option in part
        for word in option.split()
    }
    assert said <= set(words())


def test_others_have_common_ones(tmp_path):
    assert Words().describable == describable(tmp_path) == COMMON
    for options in (COMMON.person, *COMMON.looks.values(), *COMMON.clothes.values()):
        assert len(set(options)) == len(options) >= 2


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"person": ["a man"]}',
        '{"person": [], "looks": {}, "clothes": {}}',
        '{"person": ["a man"], "looks": [], "clothes": {}}',
        '{"person": ["a man"], "looks": {"hair": "red"}, "clothes": {}}',
    ],
)
def test_a_file_of_anything_else_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=f"{FILE}: expected"):
        describable(tmp_path)

"""The private parts of Hydra are as the command uses them: another version fails here, by name."""

import inspect

import pytest

from avatar_gs.cli import hydra_internals
from avatar_gs.cli.hydra_internals import USED, Hydra


@pytest.mark.parametrize("name", USED)
def test_hydra_has_the_method_with_these_parameters(name):
    method = getattr(Hydra, name, None)
    assert method is not None, f"hydra._internal.hydra.Hydra.{name} is gone"
    missing = set(USED[name]) - set(inspect.signature(method).parameters)
    assert not missing, f"hydra._internal.hydra.Hydra.{name} has no parameter {', '.join(sorted(missing))}"


def test_the_search_path_takes_a_folder():
    parameters = list(inspect.signature(hydra_internals.create_config_search_path).parameters)
    assert parameters[:1] == ["search_path_dir"], "hydra._internal.utils.create_config_search_path has changed"

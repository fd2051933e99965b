"""Every preset composes, and becomes settings that are valid."""

import pytest
import yaml
from hydra import compose, initialize_config_dir

from avatar_gs import config
from avatar_gs.settings import Settings

ALL = [(group, name) for group, names in config.presets().items() for name in names]


@pytest.fixture
def composed():
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        yield lambda *overrides: compose(config.CONFIG_NAME, overrides=list(overrides))


def test_the_groups_are_these():
    assert set(config.presets()) == {"prior", "guidance", "experiment", "cluster"}


@pytest.mark.parametrize(("group", "name"), [pair for pair in ALL if pair[0] != "cluster"])
def test_preset_composes_and_parses(composed, group, name):
    needed = ["prior.path=somewhere"] if name == "custom" else []
    settings = config.parse(composed(f"{group}={name}", *needed))
    assert isinstance(settings, Settings)
    if group == "prior":
        assert settings.prior.name == name
    if group == "guidance":
        assert name.endswith(settings.guidance.method.name)  # annealed_nfsd is nfsd with its options set


def test_cluster_presets_set_only_hydras_launcher():
    for name in config.presets()["cluster"]:
        content = yaml.safe_load((config.CONF / "cluster" / f"{name}.yaml").read_text())
        assert set(content) == {"defaults", "hydra"}
        assert set(content["hydra"]) == {"launcher"}


def test_experiments_choose_their_prior(composed):
    for name in ("sd15", "sd21"):
        settings = config.parse(composed(f"experiment={name}"))
        assert settings.prior.name == name
        assert settings.optimize.steps > 1000


def test_the_defaults_are_the_dataclasses_own(composed):
    """YAML holds presets only: a default that stands twice would drift apart."""
    composed_settings = config.parse(composed()).plain()
    assert composed_settings == config.parse({}).plain()


def test_two_presets_of_one_group_do_not_mix(composed):
    """Each preset of a prior sets what any other sets, so that switching leaves nothing of the other behind."""
    assert config.parse(composed("prior=sd15", "prior=mini")).prior == config.parse(composed("prior=mini")).prior

"""Every preset composes, and becomes settings that are valid."""

import pytest
import yaml

from avatar_gs.cli import compose as config
from avatar_gs.core.presets import preset_groups
from avatar_gs.guidance.presets import named_preset
from avatar_gs.lab.suites.methods_report import DEFAULT
from avatar_gs.prior.memory_estimate import PUBLISHED, Architecture, expected_peak
from avatar_gs.settings import Settings
from avatar_gs.stages.estimate import Task, memory_load

ALL = [(group, name) for group, names in preset_groups().items() for name in names]


@pytest.fixture
def composed():
    return lambda *overrides: config.composed(overrides)


def test_the_groups_are_these():
    assert set(preset_groups()) == {"prior", "guidance", "experiment", "cluster"}


@pytest.mark.parametrize(("group", "name"), [pair for pair in ALL if pair[0] != "cluster"])
def test_preset_composes_and_parses(composed, group, name):
    needed = ["prior.path=somewhere"] if name == "custom" else []
    settings = config.parse(composed(f"{group}={name}", *needed))
    assert isinstance(settings, Settings)
    if group == "prior":
        assert settings.prior.name == name
    if group == "guidance":
        assert name.endswith(settings.guidance.method)  # annealed_nfsd is nfsd with its options set


def test_cluster_presets_set_only_hydras_launcher_and_threads():
    for name in preset_groups()["cluster"]:
        content = yaml.safe_load((config.CONF / "cluster" / f"{name}.yaml").read_text())
        assert set(content) <= {"defaults", "hydra", "threads"}
        assert set(content["hydra"]) == {"launcher"}


def test_experiments_choose_their_prior(composed):
    for name in ("sd15", "sd21", "sdxl"):
        settings = config.parse(composed(f"experiment={name}"))
        assert settings.prior.name == name
        assert settings.optimize.steps > 1000


@pytest.mark.parametrize("experiment", ["sd15", "sd21", "sdxl"])
def test_an_experiment_chooses_a_method_and_a_named_method_keeps_its_own_numbers(composed, experiment):
    alone = config.parse(composed(f"experiment={experiment}"))
    assert alone.guidance == config.parse(composed("guidance=rescaled_de_sds")).guidance
    assert (alone.guidance.cfg_scale, alone.guidance.cfg_rescale, alone.guidance.clip) == (7.5, 0.75, 1.0)
    for name in ("hifa", "de_sds"):
        own = config.parse(composed(f"guidance={name}")).guidance
        for order in (
            (f"guidance={name}", f"experiment={experiment}"),
            (f"experiment={experiment}", f"guidance={name}"),
        ):
            assert config.parse(composed(*order)).guidance == own, order
    one = config.parse(composed("guidance=hifa", "guidance.clip=2", f"experiment={experiment}")).guidance
    assert (one.cfg_scale, one.clip) == (100.0, 2.0)


@pytest.mark.parametrize("name", preset_groups()["experiment"])
def test_no_experiment_sets_a_methods_own_numbers(name):
    content = yaml.safe_load((config.CONF / "experiment" / f"{name}.yaml").read_text())
    assert "guidance" not in content
    saves_memory = {
        "encode_chunk",
        "checkpoint_encoder",
        "encoder_keeps",
        "predict_chunk",
        "offload_text",
    }  # and changes no result
    assert set(content.get("prior", {})) <= saves_memory | {"prompts"}


def test_a_named_prior_outranks_the_experiments(composed):
    settings = config.parse(composed("experiment=sd15", "prior=sd21"))
    assert settings.prior == config.parse(composed("prior=sd21")).prior
    settings = config.parse(composed("experiment=sd15", "prior.path=/models/photo.safetensors"))
    assert settings.prior.path == "/models/photo.safetensors" and settings.prior.controlnet.startswith("lllyasviel/")


def test_the_defaults_for_stable_diffusion(composed):
    """The recipe that the presets' comments give the sources of."""
    for name, pose_map, scale in (("sd15", "full", 1.0), ("sd21", "body", 1.5)):
        s = config.parse(composed(f"experiment={name}"))
        assert (s.prior.precision.name, s.prior.control_scale, s.optimize.pose_map.name) == ("float16", scale, pose_map)
        assert (s.optimize.steps, s.optimize.batch, s.optimize.supersample) == (3600, 4, 2)
        assert (s.splats.count, s.splats.opacity, s.density.grow_share, s.density.max_splats) == (
            100_000,
            0.1,
            0.02,
            200_000,
        )
        assert (s.guidance.schedule.floor, s.guidance.schedule.jitter) == (0.1, 0.05)
        views = s.cameras
        assert [f.probability for f in (views.body, views.head, views.upper, views.lower)] == [0.5, 0.4, 0.1, 0.0]
        assert views.head.span_min < views.body.span_min, "an experiment changes how often, not how"
        assert s.prior.prompts.suffix == "plain studio background" and s.prior.prompts.style.name == "sd"


@pytest.mark.parametrize(
    "file",
    [
        *(f"experiment/{name}" for name in ("sd", "sd15", "sd21", "sd_8gb")),
        *("guidance/rescaled_de_sds", "prior/sd15", "prior/sd21"),
    ],
)
def test_every_value_for_stable_diffusion_says_where_it_is_from(file):
    """On its own line, or on the line of what holds it."""
    said = {-1: False}  # by indentation
    for line in (config.CONF / f"{file}.yaml").read_text(encoding="utf-8").splitlines():
        if ":" not in line or line.lstrip().startswith(("#", "-", "defaults:", "name:", "method:")):
            continue
        indent = len(line) - len(line.lstrip())
        said = {depth: value for depth, value in said.items() if depth < indent}
        said[indent] = " # " in line
        is_value = line.partition("#")[0].partition(":")[2].strip() != ""
        assert any(said.values()) or not is_value, f"{file}: {line.strip()}"


def test_the_defaults_are_the_dataclasses_own(composed):
    """YAML holds presets only: a default that stands twice would drift apart. A run begins with a preset of guidance,
    which stands nowhere else: the dataclass is what all methods share."""
    composed_settings, own = config.parse(composed()).plain(), config.parse({}).plain()
    assert composed_settings | {"guidance": own["guidance"]} == own
    assert config.parse(composed()).guidance == named_preset(DEFAULT)


def test_two_presets_of_one_group_do_not_mix(composed):
    """Each preset of a prior sets what any other sets, so that switching leaves nothing of the other behind."""
    assert config.parse(composed("prior=sd15", "prior=mini")).prior == config.parse(composed("prior=mini")).prior


def test_eight_gigabytes_are_enough_for_the_same_results(composed):
    """The preset differs from its recipe in what saves memory only, and is expected to fit, as the recipe fits 16."""
    for more in ((), ("prior=sd15",)):
        whole, small = (config.parse(composed(f"experiment={name}", *more)) for name in ("sd21", "sd_8gb"))
        differing = {
            key for key, value in config.flatten(small.plain()).items() if value != config.flatten(whole.plain())[key]
        }
        assert differing == {
            f"prior.{key}"
            for key in ("encode_chunk", "checkpoint_encoder", "encoder_keeps", "predict_chunk", "offload_text")
        }
        architecture = Architecture(PUBLISHED[small.prior.name])
        for settings, limit in ((whole, 16), (small, 8)):
            peak = expected_peak(architecture, memory_load(settings, "cuda", Task.optimize))
            assert sum(peak.values()) < 0.95 * limit * 2**30

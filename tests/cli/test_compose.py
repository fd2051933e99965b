"""Settings: parsing, the run's name, and the precedence of defaults, saved run and command line."""

import pytest
import yaml

from avatar_gs.cli import compose as config
from avatar_gs.core.errors import UserError
from avatar_gs.settings import Settings, run_name, slug


def save(settings, begun=True):
    """A run's folder, by default with a first checkpoint's folder in it."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    if begun:
        (settings.folder / "checkpoints").mkdir(exist_ok=True)
    text = yaml.safe_dump(settings.plain(), allow_unicode=True, sort_keys=False)
    (settings.folder / "config.yaml").write_text(text, encoding="utf-8")


def test_a_run_that_failed_before_its_first_checkpoint_binds_nobody(resolve):
    save(resolve("prompt=x", "body.path=wrong.npz"), begun=False)
    assert resolve("prompt=x", "body.path=right.npz").body.path == "right.npz"
    with pytest.raises(UserError, match="is no run"):
        resolve("prompt=x", "stage=export")


def test_plain_settings_survive_yaml(resolve):
    settings = resolve("prompt='a \\${x}, größer'", "guidance=sds", "body.betas=[1,-0.5]", "optimize.steps=7")
    assert settings.prompt == "a ${x}, größer"
    save(settings)
    again = resolve("prompt='a \\${x}, größer'")
    assert again.plain() == settings.plain()


def test_the_same_command_is_no_conflict(resolve):
    command = ("name=a", "prompt='a man'", "prior=sd15", "experiment=quick", "optimize.steps=7", "threads=2")
    save(resolve(*command))
    assert resolve(*command).optimize.steps == 7


def test_a_run_keeps_the_seed_that_it_drew(resolve):
    drawn = resolve("name=a", "prompt='a man'", "seed=-1")
    save(drawn)
    assert resolve("name=a", "seed=-1").seed == drawn.seed == resolve("name=a").seed
    assert resolve("name=a", "prompt='a man'", "seed=-1", "overwrite=true").seed != drawn.seed


def test_a_run_may_get_more_steps_but_not_fewer(resolve):
    save(resolve("name=a", "prompt='a man'", "optimize.steps=7"))
    assert resolve("name=a", "optimize.steps=9").optimize.steps == 9
    with pytest.raises(UserError, match=r"optimize\.steps \(saved 7, given 5\)"):
        resolve("name=a", "optimize.steps=5")


def test_a_run_is_the_same_in_another_folder_of_runs(resolve, tmp_path):
    saved = resolve("name=a", "prompt='a man'")
    save(saved)
    saved.folder.rename(tmp_path / "a")
    assert resolve("name=a", f"outputs={tmp_path}").prompt == "a man"


def test_a_saved_run_gives_what_the_command_line_leaves_out(resolve):
    save(resolve("name=a", "prompt='a man'", "seed=5", "guidance=sds", "optimize.steps=7", "device=cpu", "threads=3"))
    settings = resolve("name=a", "stage=export", "export.frame=yup")
    assert (settings.prompt, settings.seed, settings.guidance.method) == ("a man", 5, "sds")
    assert (settings.optimize.steps, settings.device, settings.threads) == (7, "cpu", 3)
    assert (settings.stage, settings.export.frame.name) == ("export", "yup")


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["seed=6"], ["seed"]),
        (["optimize.steps=300", "splats.count=100"], ["optimize.steps", "splats.count"]),
        (["guidance=de_sds"], ["guidance.method"]),
        (["prior=mini"], ["prior.name"]),
        (["experiment=quick"], ["optimize.steps", "density.max_splats"]),
        (["threads=4"], ["threads"]),
    ],
)
def test_other_settings_than_the_saved_ones_conflict(resolve, overrides, keys):
    run = ("prompt='a man'", "name=a", "seed=5", "guidance=sds", "prior=sd15", "optimize.steps=700", "threads=3")
    save(resolve(*run, "splats.count=50"))
    with pytest.raises(UserError) as error:
        resolve("name=a", *overrides)
    for key in keys:
        assert f"{key} (saved" in str(error.value)
    assert "overwrite=true" in str(error.value)


@pytest.mark.parametrize("override", ["device=cpu", "export.frame=rdf", "debug=true", "stage=export"])
def test_settings_that_never_conflict(resolve, override):
    save(resolve("name=a", "prompt='a man'", "device=cuda"))
    resolve("name=a", override)


def test_a_preview_may_differ_from_its_run(resolve):
    save(resolve("name=a", "prompt='a man'"))
    settings = resolve("name=a", "stage=preview", "seed=9")
    assert (settings.prompt, settings.seed) == ("a man", 9)


def test_overwriting_forgets_the_saved_run(resolve):
    save(resolve("name=a", "prompt='a man'", "optimize.steps=7"))
    settings = resolve("name=a", "prompt='a woman'", "overwrite=true")
    assert (settings.prompt, settings.optimize.steps) == ("a woman", Settings().optimize.steps)


def test_exporting_with_overwrite_still_exports_the_saved_run(resolve):
    save(resolve("name=a", "prompt='a man'", "splats.max_scale=0.02"))
    assert resolve("name=a", "stage=export", "overwrite=true").splats.max_scale == 0.02


EXECUTED = "prompt: !!python/object/apply:os.mkdir [executed]"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1, 2]", "unknown: 1", "optimize: {steps: 0}", "seed: many", "\x00", "prompt: {a: 1}", EXECUTED],
)
def test_a_damaged_saved_run_is_named(resolve, content, tmp_path):
    (tmp_path / "outputs" / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "outputs" / "a" / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"outputs/a/config\.yaml") as error:
        resolve("name=a", "prompt='a man'")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_stages_without_a_run_need_no_prompt(resolve):
    assert resolve("stage=benchmark").stage == "benchmark"


def test_exporting_a_run_that_is_not_there_names_those_that_are(resolve):
    save(resolve("name=people/anna", "prompt='a man'"))
    with pytest.raises(UserError, match="people/anna"):
        resolve("stage=export", "name=ana")


def test_names_are_made_of_prompt_and_seed():
    first, second = Settings(prompt="A man, in red"), Settings(prompt="A man, in red", seed=1)
    assert run_name(first).startswith("a-man-in-red-")
    assert run_name(first) != run_name(second)
    assert run_name(first) == run_name(Settings(prompt="A man, in red"))
    assert run_name(Settings(prompt="a  man (in red)")) != run_name(first)
    assert run_name(Settings(prompt="一个女人")).isalnum()


def test_names_of_a_persons_runs_begin_with_the_person():
    first = run_name(Settings(prompt="<id> in red", photos="./anna"))
    assert first.startswith("anna-in-red-")
    assert first != run_name(Settings(prompt="<id> in red", photos="./other/anna"))
    assert run_name(Settings(photos="people/bob/*.jpg")).startswith("bob-")
    assert run_name(Settings(prompt="red", identity="eve.safetensors")).startswith("eve-red-")


def test_a_person_needs_no_prompt(resolve):
    assert resolve("photos=./anna").has_identity
    assert resolve("stage=embed", "identity=anna.safetensors").stage == "embed"
    with pytest.raises(UserError, match="nobody is known as <id>"):
        resolve("prompt='<id> in red'")


def test_slugs_are_short_and_ascii():
    assert slug("Größe: a/b\\c  ../..") == "groe-a-b-c"
    assert len(slug("x" * 100)) == 40
    assert slug("a" * 39 + " b") == "a" * 39


@pytest.mark.parametrize("name", ["..", ".", "/a", "a/..", "a//b", " a", "a\nb", "a\\..\\b", "C:", "a/", "\0"])
def test_names_that_leave_outputs_are_refused(name):
    with pytest.raises(UserError, match="name="):
        run_name(Settings(name=name))


def test_enum_words_and_texts_are_found():
    assert config.enum_choices()["export.frame"] == ["supersplat", "rdf", "yup"]
    assert {
        "prompt",
        "negative_prompt",
        "photos",
        "identity",
        "name",
        "init",
        "prior.path",
        "body.path",
    } <= config.text_keys()
    assert not {"seed", "stage", "prior.control_scale"} & config.text_keys()


@pytest.mark.parametrize("name", ["clothes", "weighting"])
def test_the_former_name_of_auto_is_accepted_on_the_command_line_and_in_saved_runs(resolve, name):
    settings = resolve("name=a", "prompt='a man'", f"embed.{name}=own")
    assert settings.plain()["embed"][name] == "auto" == getattr(settings.embed, name).name
    save(settings)
    file = settings.folder / "config.yaml"
    file.write_text(file.read_text().replace(f"  {name}: auto", f"  {name}: own"))
    assert f"  {name}: own" in file.read_text()
    for override in ([], [f"embed.{name}=own"], [f"embed.{name}=auto"]):
        assert resolve("name=a", *override).embed == settings.embed


def test_a_run_saved_before_the_laboratory_had_its_own_settings_resumes(resolve):
    settings = resolve("name=a", "prompt='a man'", "optimize.steps=7")
    save(settings)
    file = settings.folder / "config.yaml"
    old = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(old | old.pop("lab"), sort_keys=False))
    assert "evaluate" in yaml.safe_load(file.read_text())
    assert resolve("name=a").optimize.steps == 7

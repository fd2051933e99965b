"""Free text through the command line, and what is said about overrides that cannot be."""

from dataclasses import replace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from avatar_gs.cli import command as cli
from avatar_gs.cli import overrides
from avatar_gs.core.errors import UserError

NASTY = [
    "a man, tall",
    "(very) [tall] {id} <id>",
    "it's",
    'say "hello"',
    "${oc.env:HOME} \\${x} \\\\${y} $${z} ${",
    "back\\slash\\",
    "ends with backslash and quote \\'",
    "\\'\\\"",
    "größer, 一个女人, امرأة, 👩‍🦰",
    "key=value, a: b; c # d",
    "line\nbreak\ttab\r",
    "  spaces around  ",
    "null",
    "true",
    "3.5",
    "~+@x",
    "",
    "choice(a,b)",
    "%s %(x)s {0}",
]


@pytest.fixture
def settings_of(monkeypatch, tmp_path):
    """Runs the command with a stage that only keeps its settings; returns the settings of every job."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        seen = []
        monkeypatch.setattr(cli, "_dispatch", seen.append)
        code = cli.main(arguments)
        return code, seen

    return run


def through_cli(text):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_dispatch", seen.append)
        assert cli.main(["stage=benchmark", f"prompt={text}", f"negative_prompt={text}"]) == 0
    return seen[0]


def through_hydra(text):
    """What a setting holds after Hydra's parser, the sweeper's rewriting and OmegaConf."""
    parser = OverridesParser.create()
    once = parser.parse_override(f"prompt={overrides.quote(text)}")
    again = parser.parse_override(f"prompt={once.get_value_element_as_str()}")
    return [OmegaConf.create({"prompt": override.value()}).prompt for override in (once, again)]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_survives_quoting(text):
    assert through_hydra(text) == [text, text]


@given(st.text("\\'\"${}ab,?", max_size=12))
@example("\\${a}")
@example("'\\'")
def test_texts_of_special_characters_survive_quoting(text):
    assert through_hydra(text) == [text, text]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_survive_the_command(text):
    assert through_cli(text).prompt == text


@pytest.mark.parametrize(
    ("given_text", "kept"), [("'a man'", "a man"), ('"a man"', "a man"), ("\"'a'\"", "'a'"), ("'a", "'a"), ('"', '"')]
)
def test_one_pair_of_outer_quotes_is_stripped(given_text, kept):
    assert through_cli(given_text).prompt == kept


def test_paths_are_free_text(settings_of):
    code, (job,) = settings_of(
        "stage=benchmark", "prior=/models/my prior, (v2)", "body.path=/ünder score/b.npz", "init=my (old), run"
    )
    assert code == 0
    assert (job.prior.name, job.prior.path) == ("custom", "/models/my prior, (v2)")
    assert job.body.path == "/ünder score/b.npz"
    assert job.init == "my (old), run"


def test_prior_presets_stay_presets(settings_of):
    assert settings_of("stage=benchmark", "prior=sd15")[1][0].prior.name == "sd15"
    hub = settings_of("stage=benchmark", "prior=someone/photo-real_v5.1")[1][0].prior
    assert (hub.name, hub.path) == ("custom", "someone/photo-real_v5.1")


def test_a_prior_of_ones_own_next_to_an_experiment_keeps_what_it_does_not_bring(settings_of, tmp_path):
    """A file of weights holds no ControlNet: the preset's goes with it. A whole folder brings its own."""
    preset = settings_of("stage=benchmark", "experiment=sd15")[1][0].prior
    for order in (("experiment=sd15", "prior=/photo.safetensors"), ("prior=/photo.safetensors", "experiment=sd15")):
        prior = settings_of("stage=benchmark", *order)[1][0].prior
        assert prior == replace(preset, path="/photo.safetensors") and prior.controlnet.startswith("lllyasviel/")
    alone = settings_of("stage=benchmark", "experiment=quick", "prior=/photo.safetensors")[1][0].prior
    assert (alone.name, alone.controlnet) == ("custom", "")
    (tmp_path / "whole" / "controlnet").mkdir(parents=True)
    command = ("stage=benchmark", "experiment=sd15", f"prior={tmp_path / 'whole'}")
    whole = settings_of(*command)[1][0].prior
    assert (whole.path, whole.controlnet, whole.vae) == (str(tmp_path / "whole"), "", "")
    assert whole.precision is preset.precision and whole.prompts == preset.prompts
    assert settings_of("prior.controlnet=pose", *command)[1][0].prior.controlnet == "pose"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[/a/b.safetensors:0.8]", ["/a/b.safetensors:0.8"]),
        ("/a/b.safetensors:0.8", ["/a/b.safetensors:0.8"]),
        ("[a.safetensors, b c.safetensors:-1]", ["a.safetensors", "b c.safetensors:-1"]),
        ("""['/a, [b]:c.pt:2', "it's.pt"]""", ["/a, [b]:c.pt:2", "it's.pt"]),
        ("'/a, b.pt'", ["/a, b.pt"]),
        ("/a, b's (1) {x} ${HOME}.pt:.5", ["/a, b's (1) {x} ${HOME}.pt:.5"]),
        ("[${HOME}/größer=1.pt]", ["${HOME}/größer=1.pt"]),
        ("[]", []),
        ("", []),
    ],
)
def test_lora_files_by_any_path(settings_of, value, expected):
    code, (job,) = settings_of("stage=benchmark", f"prior.lora={value}")
    assert code == 0 and job.prior.lora == expected


def test_lora_files_in_a_sweep(settings_of):
    code, jobs = settings_of("-m", "stage=benchmark", "prior.lora=[a.pt:0.5],[],['b,c.pt',d.pt]")
    assert code == 0 and [job.prior.lora for job in jobs] == [["a.pt:0.5"], [], ["b,c.pt", "d.pt"]]


@pytest.mark.parametrize("value", ["[a.pt],[b.pt]", "[a.pt, [b.pt]]", "[a.pt]]"])
def test_lists_of_lora_files_that_cannot_be_read(value):
    with pytest.raises(UserError, match=r"prior\.lora=.*expected.*\[<file>,<file>\]"):
        overrides.rewrite([f"prior.lora={value}"])


def test_a_file_of_prompts_is_one_job_a_line(settings_of, tmp_path):
    lines = ["a man, tall", "", 'a "woman" in ${blue}', "größer"]
    (tmp_path / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    code, jobs = settings_of("-m", "prompt=@prompts.txt")
    assert code == 0
    assert [job.prompt for job in jobs] == [line for line in lines if line]
    assert len({job.folder for job in jobs}) == 3


def test_a_missing_file_of_prompts_is_named(settings_of, capsys):
    assert settings_of("-m", "prompt=@missing.txt") == (1, [])
    assert "missing.txt" in capsys.readouterr().err


def test_a_file_of_prompts_needs_multirun(settings_of, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a man")
    assert settings_of("prompt=@prompts.txt") == (1, [])
    assert "-m" in capsys.readouterr().err
    assert settings_of("prompt=@home")[1][0].prompt == "@home"


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("optimise.steps=3", "optimize.steps"),
        ("steps=3", "optimize.steps"),
        ("promt=a", "prompt"),
        ("splats.cout=3", "splats.count"),
        ("+new=3", "new"),
        ("guidance=desds", "de_sds"),
        ("guidance=", "de_sds"),
        ("stage=exprot", "export"),
        ("device=gpu", "cuda"),
        ("export.frame=y-up", "yup"),
        ("export.format=[glb]", "export.formats"),
        ("experiment=fast", "quick"),
        ("prior=", "mini"),
        ("~prompt", "cannot be deleted"),
        ("prompt", "prompt=…"),
        ("prompt=???", "expected words"),
        ("a man in red", 'prompt="a man in red"'),
    ],
)
def test_mistakes_get_one_line_with_the_nearest_names(override, hint):
    with pytest.raises(UserError) as error:
        overrides.rewrite([override])
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_the_laboratory_have_short_names(settings_of):
    code, (job,) = settings_of("stage=benchmark", "suite=likeness", "mini.dataset.people=7", "lab.evaluate.seeds=2")
    assert code == 0
    assert (job.lab.suite.name, job.lab.mini.dataset.people, job.lab.evaluate.seeds) == ("likeness", 7, 2)
    code, jobs = settings_of("-m", "stage=playground", "prompt=a", "playground.field=epl,ehl")
    assert [job.folder.name for job in jobs] == ["playground.field=epl", "playground.field=ehl"]


def test_overrides_of_hydra_pass_as_they_are():
    given_overrides = ["hydra/launcher=basic", "hydra.verbose=true"]
    assert overrides.rewrite(given_overrides) == given_overrides


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match="UTF-8"):
        overrides.rewrite(["prompt=\udcff"])


def test_former_names_of_settings_are_read():
    assert overrides.rewrite(["playground.picture=a.png"]) == overrides.rewrite(["playground.image=a.png"])


@pytest.mark.parametrize("words", ["ply,spz", "[ply,spz]", "[ply, spz]"])
def test_formats_with_and_without_brackets(settings_of, words):
    code, [settings] = settings_of("prompt=a man", f"export.formats={words}")
    assert code == 0 and [entry.name for entry in settings.export.wanted] == ["ply", "spz"]


def test_the_former_switches_of_formats_are_read(settings_of):
    wanted = lambda *more: [entry.name for entry in settings_of("prompt=a man", *more)[1][0].export.wanted]
    assert wanted() == ["ply", "html", "mp4"]
    assert wanted("export.html=false") == ["ply", "mp4"]
    assert wanted("export.video=false", "export.html=true") == ["ply", "html"]
    assert wanted("export.video=false", "export.formats=[ply,mp4]") == ["ply"]

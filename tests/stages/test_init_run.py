"""``init``: which run it means, what is taken over from it, and what is refused before anything is loaded."""

import pytest
import yaml

from avatar_gs.core.errors import UserError
from avatar_gs.settings import Settings

EDIT = ("prompt='a man in a blue coat'", "guidance=pds")


def save(folder, settings, *, avatar=True, identity=False):
    """A run that has come to its first avatar."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings.plain(), allow_unicode=True))
    if avatar:
        (folder / "checkpoints" / "last.safetensors").touch()
    if identity:
        (folder / "identity.safetensors").touch()


@pytest.fixture
def anna(resolve, tmp_path):
    save(tmp_path / "outputs" / "anna", Settings(prompt="a man in a red shirt"))
    return tmp_path / "outputs" / "anna"


@pytest.mark.parametrize("init", ["anna", "outputs/anna", "outputs/anna/", "./outputs/anna"])
def test_a_run_is_known_by_its_folder_or_its_name(resolve, anna, init):
    settings = resolve(*EDIT, f"init={init}")
    assert settings.init == "outputs/anna"
    assert settings.source_prompt == "a man in a red shirt"
    assert settings.name.startswith("anna-a-man-in-a-blue-coat-")
    assert resolve(*EDIT, f"init={anna}").folder == settings.folder


def test_a_run_comes_before_a_folder_of_the_same_name(resolve, anna, tmp_path):
    (tmp_path / "anna").mkdir()  # photos, say
    assert resolve(*EDIT, "init=anna").init == "outputs/anna"


def test_what_the_command_says_of_the_source_is_taken(resolve, anna):
    assert resolve(*EDIT, "init=anna", "source_prompt='a clown'").source_prompt == "a clown"
    with pytest.raises(UserError, match=r"source_prompt=a clown: .*init="):
        resolve("prompt=x", "source_prompt='a clown'")


def test_the_body_is_inherit_settings(resolve, tmp_path):
    tall = Settings(prompt="a man")
    tall.body.betas = [1.5]
    save(tmp_path / "outputs" / "tall", tall)
    assert resolve(*EDIT, "init=tall").body.betas == [1.5]
    assert resolve(*EDIT, "init=tall", "body.betas=[1.5]").body.betas == [1.5]
    with pytest.raises(UserError, match=r"body\.betas=\[2\.0\].*body\.betas=\[1\.5\]; leave them out"):
        resolve(*EDIT, "init=tall", "body.betas=[2]")


def test_the_person_is_inherit_settings(resolve, tmp_path):
    save(tmp_path / "outputs" / "eve", Settings(prompt="wearing a red shirt", photos="./eve"), identity=True)
    settings = resolve(*EDIT, "init=eve")
    assert settings.identity == "outputs/eve/identity.safetensors" and not settings.photos
    assert settings.source_prompt == "<id> wearing a red shirt"
    again = resolve(*EDIT, "init=eve", "identity=outputs/eve/identity.safetensors")
    assert again.source_prompt == "<id> wearing a red shirt"
    assert resolve(*EDIT, "init=eve", "photos=./eve").source_prompt == "<id> wearing a red shirt"
    other = resolve(*EDIT, "init=eve", "photos=./bob")
    assert (other.photos, other.identity) == ("./bob", "")
    assert other.source_prompt == "a person wearing a red shirt"


def test_a_person_whose_file_is_gone_is_found_by_the_photos(resolve, tmp_path):
    save(tmp_path / "outputs" / "eve", Settings(prompt="<id> in red", photos="./eve"))
    settings = resolve(*EDIT, "init=eve")
    assert (settings.photos, settings.source_prompt) == ("./eve", "<id> in red")


def test_mistakes_are_one_line(resolve, anna, tmp_path):
    (tmp_path / "outputs" / "empty").mkdir()
    save(tmp_path / "outputs" / "begun", Settings(prompt="x"), avatar=False)
    save(tmp_path / "outputs" / "broken", Settings(prompt="x"))
    (tmp_path / "outputs" / "broken" / "config.yaml").write_text("- 1")
    for overrides, words in (
        (["init=anne"], "init=anne: no such folder"),
        (["init=empty"], "init=outputs/empty holds no avatar"),
        (["init=begun"], "init=outputs/begun holds no avatar"),
        (["init=broken"], "is damaged"),
        (["init=anna", "name=anna"], "is this run itself"),
        (["init=anna", "name=anna", "overwrite=true"], "is this run itself"),
        ([], "guidance=pds changes what is there already: give init="),
    ):
        with pytest.raises(UserError) as caught:
            resolve(*EDIT, *overrides)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_that_has_begun_keeps_what_it_took_over(resolve, anna, tmp_path):
    """It can be exported, and named again, when the first avatar is gone."""
    settings = resolve(*EDIT, "init=anna", "name=edit")
    save(tmp_path / "outputs" / "edit", settings)
    again = resolve("name=edit")
    assert (again.init, again.source_prompt) == ("outputs/anna", "a man in a red shirt")
    assert resolve(*EDIT, "init=anna", "name=edit").plain() == settings.plain()
    save(tmp_path / "outputs" / "bob", Settings(prompt="a boy"))
    with pytest.raises(UserError, match=r"init \(saved 'outputs/anna', given 'outputs/bob'\)"):
        resolve("name=edit", "init=bob")
    (anna / "config.yaml").unlink()
    assert resolve("stage=export", "name=edit").init == "outputs/anna"
    assert resolve("name=edit").source_prompt == "a man in a red shirt"


def test_any_method_may_begin_with_an_avatar(resolve, anna):
    assert resolve("prompt=x", "init=anna", "guidance=sds").init == "outputs/anna"

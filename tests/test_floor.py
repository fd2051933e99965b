"""The lowest allowed versions are those that ``make test-floor`` installs."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_lowest_versions_are_those_in_the_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    lines = (ROOT / "tests" / "constraints-floor.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    tested = {canonicalize_name(name): version for name, version in tested.items()}
    assert tested.keys() == {canonicalize_name(requirement.name) for requirement in needed}
    for requirement in needed:
        (lowest,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        version = tested[canonicalize_name(requirement.name)]
        assert version == lowest or version.startswith(f"{lowest}."), requirement

"""The free body, loaded once."""

import pytest

from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY
from avatar_gs.body.model import Body, load_body


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body(BodyConfig(path=str(FREE_BODY)))

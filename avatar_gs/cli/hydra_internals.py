"""The private parts of Hydra that the command uses, for which ``pyproject.toml`` pins hydra-core below 1.4.

``hydra.main`` parses ``sys.argv`` itself and prints its own errors; the command needs the object behind it.
"""

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path

from avatar_gs.core.paths import CONF

__all__ = ["USED", "Hydra", "start_hydra"]

USED = {
    "create_main_hydra2": ("task_name", "config_search_path"),
    "run": ("config_name", "task_function", "overrides"),
    "multirun": ("config_name", "task_function", "overrides"),
    "show_cfg": ("config_name", "overrides", "cfg_type", "package", "resolve"),
    "show_info": ("info", "config_name", "overrides"),
    "shell_completion": ("config_name", "overrides"),
}
"""The methods of ``Hydra`` that the command calls, with the parameters that it gives."""


def start_hydra() -> Hydra:
    """Hydra with the presets of ``conf/``; ends with ``GlobalHydra.instance().clear()``."""
    version.setbase("1.3")
    return Hydra.create_main_hydra2(task_name="avatar_gs", config_search_path=create_config_search_path(str(CONF)))

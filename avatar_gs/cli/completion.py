"""Shell completion: Hydra's, extended to lines with free text and to values such as the stages."""

import contextlib
import io
import os
import shlex
from collections.abc import Sequence

from avatar_gs.cli import compose as config
from avatar_gs.cli.hydra_internals import Hydra
from avatar_gs.cli.schema import full_key
from avatar_gs.core.errors import UserError
from avatar_gs.core.presets import preset_groups

SHELLS = ("bash", "zsh", "fish")
ACTIONS = ("install", "uninstall", "query")


def run(hydra: Hydra, arguments: Sequence[str]) -> None:
    """Install, uninstall or answer a query of a shell's completion (``-sc install=bash``).

    Raises:
        UserError: for an unknown action or shell.
    """
    action, _, shell = arguments[0].partition("=") if len(arguments) == 1 else ("", "", "")
    if action not in ACTIONS or shell not in SHELLS:
        raise UserError(
            f"-sc {' '.join(arguments)}: expected {'|'.join(ACTIONS)}={'|'.join(SHELLS)}, as in -sc install=bash"
        )
    if action == "query":
        print(" ".join(_suggestions(hydra, shell, os.environ.get("COMP_LINE", ""))))
        return
    script = _ask_hydra(hydra, f"{action}={shell}")
    # Hydra's script splits the line at every space; the shell knows where a quoted prompt ends.
    print(script.replace("${words[$COMP_CWORD]}", "${COMP_WORDS[$COMP_CWORD]}").rstrip())


def _suggestions(hydra: Hydra, shell: str, line: str) -> list[str]:
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # an open quote: the cursor is inside a text
        return []
    last = "" if not words or line[-1].isspace() else words.pop()
    if last.startswith("-"):
        return []
    key, equals, beginning = last.partition("=")
    choices = config.enum_choices() | preset_groups()
    if equals and full_key(key) in choices:
        return [f"{key}={choice}" for choice in choices[full_key(key)] if choice.startswith(beginning)]
    os.environ["COMP_LINE"] = f"avatar-gs {full_key(last)}"
    added = "lab." if full_key(last) != last else ""
    return [word.removeprefix(added) for word in _ask_hydra(hydra, f"query={shell}").split()]


def _ask_hydra(hydra: Hydra, argument: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        hydra.shell_completion(config_name=config.CONFIG_NAME, overrides=[argument])
    return output.getvalue()

"""avatar_gs: a sentence (and, if you like, photos) in, a posable Gaussian-splat avatar out.

Example:
    >>> import avatar_gs
    >>> avatar = avatar_gs.make("a man in a red shirt and blue trousers", name="tom")
    >>> avatar.save("tom.ply")
"""

from typing import TYPE_CHECKING, Any

from avatar_gs.core.errors import UserError

if TYPE_CHECKING:
    from avatar_gs.api import Avatar, load, make

__version__ = "0.1.0"
__all__ = ["Avatar", "UserError", "load", "make"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use: it loads torch and diffusers, for which the command's help need not wait."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from avatar_gs.core.device import prepare_environment

    prepare_environment()  # before the libraries load, which read their variables then
    from avatar_gs import api

    return getattr(api, name)

"""torch and shape annotations for modules that hold settings next to the code that uses them.

The settings must load fast and without torch or numpy (``--help``, ``--cfg job``, shell completion), yet a method's
settings are best read in the same file as its class. Such modules import these names from here:

    from avatar_gs.core.lazy import Float, Tensor, torch

``torch`` is imported when one of its attributes is first used, so not in decorators, default values or annotations
(quote ``"torch.Generator"``). ``Tensor``, ``Float``, ``Int`` and ``Bool`` are the real ones for type checkers and under
jaxtyping's import hook, which is how the tests check shapes; otherwise nothing evaluates them, and they are ``Any``.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
else:

    class _LazyModule:
        """A module that is imported at the first access to an attribute."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    torch = _LazyModule("torch")

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
else:

    class _Unchecked:
        """Stands for a jaxtyping dtype: subscripting it gives ``Any``."""

        def __class_getitem__(cls, item: object) -> Any:
            return Any

    Bool = Float = Int = _Unchecked
    Tensor = Any

__all__ = ["Bool", "Float", "Int", "Tensor", "torch"]

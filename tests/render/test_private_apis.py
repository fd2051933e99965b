"""Private and unstable names of other libraries that the renderers use: which one is missing after an upgrade.

gsplat's and torch's are used in ``core.gsplat_kernels``, numba's and llvmlite's in ``render.cpu.simd`` and
``render.cpu.runtime``.
"""

import importlib
import importlib.util

import pytest

NAMES = {
    "numba": ["config.CACHE_DIR", "njit"],
    "numba.core.cgutils": ["get_or_insert_function"],
    "numba.core.types": ["Type", "float32", "boolean", "int64", "uint64", "intp", "void"],
    "numba.core.errors": ["NumbaError"],
    "numba.core.imputils": ["lower_builtin"],
    "numba.core.typing.templates": ["AbstractTemplate", "infer_global", "signature"],
    "numba.extending": ["intrinsic", "models.PrimitiveModel", "register_model"],
    "llvmlite.ir": ["VectorType", "IRBuilder.shuffle_vector", "IRBuilder.insert_element", "IRBuilder.atomic_rmw"],
    "torch.utils.cpp_extension": ["CUDA_HOME", "_get_build_directory", "get_default_build_root"],
    "gsplat": ["rasterization"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_the_name_is_there(module: str, name: str) -> None:
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)


def test_gsplat_has_its_backend() -> None:
    assert importlib.util.find_spec("gsplat.cuda._backend") is not None

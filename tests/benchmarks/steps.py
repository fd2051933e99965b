"""Times the steps of one recipe with random weights, and writes what ``stage=benchmark benchmark.step=true`` finds.

    python tests/benchmarks/steps.py --json sd21.json experiment=sd21 device=cuda benchmark.repeats=3

The overrides are the command line's (``avatar-gs stage=benchmark benchmark.step=true …``), and so is the code that
runs; beside its table a flat row of plain values is written. ``--few-channels`` is a trial: the prior's blocks and
layers, a few channels wide, for images of 128².
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from hydra import compose, initialize_config_dir

from avatar_gs import config
from avatar_gs.device import prepare_environment
from avatar_gs.prior.config import PriorConfig
from avatar_gs.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the row to this file")
    parser.add_argument("--few-channels", action="store_true", help="a trial of sd15 or sd21, a few channels wide")
    parser.add_argument("--networks", choices=("eager", "graphs", "compiled"), default="eager", help="how they run")
    parser.add_argument("--memory", action="store_true", help="also the memory of every phase of a short run")
    parser.add_argument("overrides", nargs="*", help="settings, key=value")
    options = parser.parse_intermixed_args()
    prepare_environment()
    from avatar_gs.stages import benchmark  # loads torch, which reads the environment

    settings = composed([compile_override(options.networks), *options.overrides])
    with tempfile.TemporaryDirectory() as folder:
        if options.few_channels:
            settings = with_few_channels(settings, Path(folder))
        (found,) = benchmark.run(settings)
        row = flat(found)
        keep(options.json, row)
        if options.memory:
            from tests.benchmarks import memory

            phases = {f"{phase} MiB": cell for phase, cell in memory.rows(settings).items()}
            print(f"expected / allocated / reserved: {phases}")
            keep(options.json, row | phases)


def keep(file: Path | None, row: dict[str, Any]) -> None:
    """Write the row, as far as it is known."""
    if file is not None:
        file.write_text(json.dumps([row]), encoding="utf-8")


def composed(overrides: Sequence[str]) -> Settings:
    """The settings of ``stage=benchmark benchmark.step=true`` with these overrides."""
    given = ["stage=benchmark", "benchmark.step=true", *overrides]
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return config.resolve(compose(config.CONFIG_NAME, overrides=given), given)


def compile_override(networks: str) -> str:
    """The override of ``prior.compile``, a switch or one of several words, that runs the networks in this way."""
    setting = PriorConfig().compile
    words = {"eager": "false", "compiled": "true"}
    if isinstance(setting, Enum):
        words = {"eager": "never", "graphs": "graphs", "compiled": "always"}
    if networks not in words:
        raise SystemExit(f"--networks={networks}: prior.compile knows {', '.join(words.values())} only")
    return f"prior.compile={words[networks]}"


def with_few_channels(settings: Settings, folder: Path) -> Settings:
    """The same with a prior of the preset's blocks and layers, a few channels wide, saved in ``folder``; the packaged
    prior is small and stays."""
    from tests import full

    if settings.prior.name not in full.KINDS:
        return settings
    for name, part in full.few(folder / "tokenizer", settings.prior.name, unet={"sample_size": 16}).items():
        part.save_pretrained(folder / name)
    prior = replace(settings.prior, name="custom", path=str(folder), controlnet="", vae="", tokenizer="")
    return replace(settings, prior=prior)


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """A row of the benchmark as numbers by name: milliseconds and MiB."""
    expected, measured = found["predicted_mib"], found["peak_memory_mib"]
    ratio = found["ratio"]
    row = {
        "step ms": round(1e3 * found["step"], 1),
        "floor ms": round(1e3 * found["floor"], 1) or None,
        "ratio": ratio and round(ratio, 3),
        "splats": found["splats"],
        "expected MiB": round(sum(expected.values()) if "gpu" not in measured else _of_tensors(expected)),
        **{f"{place} MiB": round(size) for place, size in measured.items()},
    }
    return row | {f"{part} ms": round(1e3 * seconds, 1) for part, seconds in found["parts"].items()}


def _of_tensors(expected: dict[str, float]) -> float:
    """What is expected of tensors alone, which is what torch counts on a GPU."""
    return sum(size for name, size in expected.items() if name != "overhead")


if __name__ == "__main__":
    main()

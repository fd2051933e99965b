"""Times the steps of one recipe with random weights, and writes the result of ``stage=benchmark benchmark.step=true``.

    python tests/benchmarks/steps.py --json sd21.json experiment=sd21 device=cuda benchmark.repeats=3

Overrides and code are those of ``avatar-gs stage=benchmark benchmark.step=true …``; in addition to its table, a flat
row of plain values is written. ``--few-channels`` is a test run with the prior's blocks and layers, few channels and
images of 128².
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed


from avatar_gs.cli.overrides import settings_of
from avatar_gs.core.device import prepare_environment
from avatar_gs.lab.settings import LabSettings

NETWORKS = {"eager": "never", "graphs": "graphs", "compiled": "always"}
"""How the networks run, and the value of ``prior.compile``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the row to this file")
    parser.add_argument("--few-channels", action="store_true", help="a test run of sd15 or sd21 with few channels")
    parser.add_argument("--networks", choices=tuple(NETWORKS), default="eager", help="how they run")
    parser.add_argument("overrides", nargs="*", help="settings, key=value")
    options = parser.parse_intermixed_args()
    prepare_environment()
    from avatar_gs.lab.stages import benchmark

    settings = composed([compile_override(options.networks), *options.overrides])
    with tempfile.TemporaryDirectory() as folder:
        if options.few_channels:
            settings = with_few_channels(settings, Path(folder))
        (found,) = benchmark.run(settings)
        phases = expected(settings)
    if options.json:
        options.json.write_text(json.dumps([flat(found, phases)]), encoding="utf-8")


def expected(settings: LabSettings) -> dict[str, float]:
    """The expected peak memory by phase in MiB; on a GPU of tensors alone, since torch counts these there."""
    from avatar_gs.core.device import choose_device
    from avatar_gs.lab.benchmarks.random_weights import architecture_of
    from avatar_gs.prior.memory_estimate import expected_by_phase
    from avatar_gs.stages import estimate

    device = choose_device(settings.device)
    load = estimate.memory_load(settings, device, estimate.Task.optimize)
    if device == "cuda":
        load = replace(load, overhead=0)
    sizes = expected_by_phase(architecture_of(settings.prior), load)
    sizes["densify"] = max(sizes["densify"], sizes["step"])  # measured is the whole step that ends with it
    return {phase: size / 2**20 for phase, size in sizes.items()}


def composed(overrides: Sequence[str]) -> LabSettings:
    """The settings of ``stage=benchmark benchmark.step=true`` with these overrides."""
    settings = settings_of(["stage=benchmark", "benchmark.step=true", *overrides])
    assert isinstance(settings, LabSettings)
    return settings


def compile_override(networks: str) -> str:
    """The override of ``prior.compile`` for a value of ``NETWORKS``."""
    return f"prior.compile={NETWORKS[networks]}"


def with_few_channels(settings: LabSettings, folder: Path) -> LabSettings:
    """The settings with a prior of the preset's blocks and layers and few channels, saved in ``folder``; the packaged
    prior is kept, since it is small."""
    from tests import full

    if settings.prior.name not in full.FAMILIES:
        return settings
    for name, part in full.few(folder / "tokenizer", settings.prior.name, unet={"sample_size": 16}).items():
        part.save_pretrained(folder / name)
    prior = replace(settings.prior, name="custom", path=str(folder), controlnet="", vae="", tokenizer="")
    return replace(settings, prior=prior)


def flat(found: dict[str, Any], phases: dict[str, float]) -> dict[str, Any]:
    """A row of the benchmark as plain values by name: milliseconds, and by phase MiB as ``expected / measured``, on a
    GPU ``expected / allocated / reserved``.

    Args:
        phases: ``expected``.
    """
    ratio = found["ratio"]
    row = {
        "step ms": round(1e3 * found["step"], 1),
        "floor ms": round(1e3 * found["floor"], 1) or None,
        "ratio": ratio and round(ratio, 3),
        "splats": found["splats"],
    }
    for phase, sizes in found["phases_mib"].items():
        guess = [f"{phases[phase]:,.0f}" if phase in phases else "?"]
        row[f"{phase} MiB"] = " / ".join(guess + [f"{size:,.0f}" for size in sizes.values()])
    return row | {f"{part} ms": round(1e3 * seconds, 1) for part, seconds in found["parts"].items()}


if __name__ == "__main__":
    main()

"""The parts of the check, their order and their time limits.

First gsplat's kernels are built, in parallel with the parts that need no kernels (machine, CPU renderer's errors,
comparisons with other programs). Then correctness is tested, several parts at once. Then timings run, one part at a
time. The limits of these parts add up to the budget at most; ``spare`` parts run in the remaining time.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.gpu_check.running import ROOT, Part, Wave

BUDGET = 480.0
"""Seconds."""
STEPS = "Steps of the optimisation (random weights; MiB: expected / allocated / reserved)"
TESTS = "Tests on the device"
BUILD = "build"


@dataclass(frozen=True)
class Options:
    """Inputs of the plan. ``trial``: on the CPU with few channels and steps. Empty folder names: not given."""

    trial: bool = False
    threestudio: str = ""
    gaussianip: str = ""
    sd21: str = ""

    @property
    def device(self) -> str:
        return "cpu" if self.trial else "cuda"


def plan(options: Options) -> list[Wave]:
    """All waves; the last is ``spare``."""
    return [*certain(options), spare(options)]


def certain(options: Options) -> list[Wave]:
    """The waves that fit into the budget."""
    device = ("--device", options.device)
    cores = max(1, (os.cpu_count() or 1) - 3)
    machine = Part("machine", "Machine", python("gpu_check/machine.py", *device, "--json", "{json}"), 50)
    build = Part(
        BUILD,
        "Kernels built, one render",
        python("gpu_check/build.py", *device, "--json", "{json}", "--nice", "0" if options.trial else "10"),
        112,
        environment={"MAX_JOBS": str(cores)},
    )
    return [
        [[build], [machine, agreement("cpu", 60)], list(peers(options))],
        [
            [pytest(options, "training", "tests/cuda/test_training.py", 75)],
            [pytest(options, "command", "tests/cuda/test_command.py", 75)],
            list(gsplat(options)),
        ],
        [[*[steps(options, name, "eager", limit) for name, limit in EAGER.items()], job(options)]],
    ]


EAGER = {"sd21": 60, "mini": 35, "sd15": 50, "sd_8gb": 50}
"""Time limits in seconds by recipe."""


def spare(options: Options) -> Wave:
    """Parts for the remaining time, the most important first."""
    few = ("--few-channels",) if options.trial else ()
    splats = ("--splats", "3000") if options.trial else ()
    size = ("--batch", "1", "--size", "64", "--repeats", "2") if options.trial else ()
    device = ("--device", options.device, "--json", "{json}")
    return [
        [
            benchmark("vae_encoders", "VAE encoders", (*few, *size, *device), 60),
            benchmark("refinement", "Densification and its neighbour searches", (*splats, *device), 60),
            steps(options, "mini", "graphs", 60),
            steps(options, "sd21", "graphs", 90),
            steps(options, "sd21", "compiled", 200),
            steps(options, "sd15", "compiled", 200),
            run_of_sd21(options),
        ]
    ]


def python(script: str, *arguments: str) -> tuple[str, ...]:
    """The command of a script in ``tests``."""
    return sys.executable, str(ROOT / "tests" / script), *arguments


def agreement(device: str, limit: float, after: str = "") -> Part:
    title, name = f"Splats rendered on {device}: worst gradient against float64", "agreement"
    if not after:
        title, name = "The CPU renderer's own worst gradient against float64", "agreement-cpu"
    return Part(name, title, python("render/agreement.py", "--device", device, "--json", "{json}"), limit, after=after)


def gsplat(options: Options) -> Iterator[Part]:
    """gsplat compared with the CPU renderer: tests and table of errors."""
    if not options.trial:  # without CUDA these tests use stand-ins, as in the test suite
        yield pytest(options, "gsplat", "tests/render/test_gsplat_on_cuda.py", 38)
    yield agreement(options.device, 37, after=BUILD)


def pytest(options: Options, name: str, file: str, limit: float) -> Part:
    """A test file in its own process, since a fault in a kernel breaks every later call on the GPU."""
    plain = ("--import-mode=importlib", "-p", "no:cacheprovider")
    addopts = () if importlib.util.find_spec("beartype") else ("-o", f"addopts={plain[0]}")
    command = (sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", *plain, *addopts, file)
    variables = {"AVATAR_GS_TEST_DEVICE": options.device}
    facts = {"tests": file}
    return Part(f"tests-{name}", f"{file}", command, limit, TESTS, after=BUILD, facts=facts, environment=variables)


def peers(options: Options) -> Iterator[Part]:
    """Our guidance compared with that of other programs; needs no kernels."""
    few = ("--few-channels", "--batch", "1", "--repeats", "1") if options.trial else ("--repeats", "8")
    for name, prior, checkout in (
        ("threestudio", "sd21", options.threestudio),
        ("gaussianip", "sd15", options.gaussianip),
    ):
        known = (ROOT / "tests" / "benchmarks" / f"compare_with_{name}.py").is_file()
        command = python(
            f"benchmarks/compare_with_{name}.py", checkout, "--prior", prior, *few, *("--device", options.device)
        )
        reason = "" if known else "no such script"
        if not checkout:
            reason = f"no checkout given: {name.upper()}=<folder>"
        title = f"Our guidance compared with {name}'s ({prior}; timed while kernels are built)"
        yield Part(name, title, (*command, "--json", "{json}"), 56, skip=reason)


def steps(options: Options, name: str, networks: str, limit: float) -> Part:
    recipe = () if name == "mini" else (f"experiment={name}",)
    arguments = ("--json", "{json}", "--networks", networks, f"device={options.device}", *recipe)
    if options.trial:
        small = ("optimize.batch=1", "optimize.supersample=1", "splats.count=2000", "density.max_splats=3000")
        arguments += ("--few-channels", "benchmark.repeats=1", *small)
    else:
        arguments += ("benchmark.repeats=3",)
    facts = {"recipe": name, "networks": networks}
    command = python("benchmarks/steps.py", *arguments)
    title, reason = f"Steps of {name}, networks {networks}", ""
    if options.trial and networks != "eager":
        reason = "CUDA graphs and minutes of compiling are for a GPU"
    return Part(f"steps-{name}-{networks}", title, command, limit, STEPS, BUILD, reason, facts)


def job(options: Options) -> Part:
    """The default job with the packaged prior; its steps may take a minute."""
    arguments = ("--json", "{json}", "--image", "{out}/avatar.png", f"device={options.device}")
    if options.trial:
        arguments += ("optimize.steps=20", "optimize.batch=1", "optimize.preview_every=10", "export.video=false")
    else:
        arguments += ("--seconds", "60")
    return Part("job", "The default job", python("gpu_check/job.py", *arguments, PROMPT), 80, after=BUILD)


PROMPT = "prompt=a woman with blonde hair in a green shirt and black trousers, white shoes"


def run_of_sd21(options: Options) -> Part:
    reason = "" if options.sd21 else "no weights given: SD21=<folder>"
    arguments = ("--json", "{json}", "--image", "{out}/sd21.png", f"device={options.device}", "experiment=sd21")
    more = (f"prior.path={options.sd21}", "optimize.steps=20", "optimize.preview_every=10", "export.video=false")
    return Part(
        "job-sd21", "20 steps of sd21", python("gpu_check/job.py", *arguments, *more, PROMPT), 90, "", BUILD, reason
    )


def benchmark(name: str, title: str, arguments: Sequence[str], limit: float) -> Part:
    """A script of ``tests/benchmarks``; none needs gsplat."""
    script = f"benchmarks/{name}.py"
    reason = "" if (ROOT / "tests" / script).is_file() else "no such script"
    return Part(name.replace("_", "-"), title, python(script, *arguments), limit, skip=reason)


def only(waves: Sequence[Wave], names: Sequence[str]) -> list[Wave]:
    """The parts with these names or prefixes, and the build if they need it."""
    wanted = [part for wave in waves for lane in wave for part in lane if part.name.startswith(tuple(names))]
    if any(part.after for part in wanted):
        names = (*names, BUILD)
    return [[[part for part in lane if part.name.startswith(tuple(names))] for lane in wave] for wave in waves]


def scaled(waves: Sequence[Wave], factor: float) -> list[Wave]:
    """Scale every limit by ``factor``."""
    return [[[replace(part, limit=part.limit * factor) for part in lane] for lane in wave] for wave in waves]


def in_turn(waves: Sequence[Wave]) -> list[Wave]:
    """All parts one after another, for machines with few cores."""
    return [[lane] for wave in waves for lane in wave]


def longest(waves: Sequence[Wave]) -> float:
    """Seconds if every part takes its whole limit."""
    return sum(max((sum(part.limit for part in lane) for lane in wave), default=0.0) for wave in waves)


def folder(value: str) -> str:
    """An absolute path; empty stays empty."""
    return str(Path(value).resolve()) if value else ""

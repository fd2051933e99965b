"""The command ``avatar-gs``: rewrite the overrides, compose the settings, run the stage. Imports no torch itself."""

import argparse
import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from avatar_gs import __version__
from avatar_gs.cli import clusters, completion, overrides, sweep
from avatar_gs.cli import compose as config
from avatar_gs.cli.hydra_internals import Hydra, start_hydra
from avatar_gs.cli.schema import HAS_LAB, LAB_STAGES, PRODUCT_STAGES, STAGES, Stage, full_key
from avatar_gs.core.console import start_logging
from avatar_gs.core.device import is_out_of_memory, pin_threads, prepare_environment
from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.presets import preset_groups
from avatar_gs.settings import Settings

INTERRUPTED = 130

HELP = """\
avatar-gs: a sentence in, a posable Gaussian-splat avatar out.

  avatar-gs prompt="a man in a red shirt and blue trousers"
  avatar-gs prompt="a woman with blonde hair" name=anna seed=3     in outputs/anna/
  avatar-gs prompt="<id> wearing a raincoat" photos=./anna         of the person in these photos
  avatar-gs stage=preview prompt="..."                             check prompts before a long run
  avatar-gs stage=export name=anna export.frame=yup                one stage of an existing run
  avatar-gs stage=animate name=anna motion=walk                    a video of it; motion=<file>: your own
  avatar-gs stage=view name=anna                                   its page at an address of this machine
  avatar-gs -m seed=0,1,2 prompt="..."                             several runs, one after another
  avatar-gs -m prompt=@prompts.txt                                 one run for each line of a file
  avatar-gs doctor                                                 what a report of a fault needs

Stages (stage=...):
{stages}
Settings (key=value, in any order):
  prompt, negative_prompt     any text, in any script
  name, outputs               the run's folder (made from the prompt), and the folder of all runs (outputs)
  seed, device                0 or random; auto | cpu | cuda | cuda:1
  photos, identity            photos of one person, who is <id> in the prompt; or an identity.safetensors
  init                        the run whose avatar to start from; guidance=pds (or dds) edits it
  prior                       {prior}, a folder, a .safetensors file or a hub name
  guidance                    {guidance}
  optimize.steps, optimize.batch, splats.count, export.frame
  experiment                  a set of settings: {experiment}
  overwrite, debug            true: start the run from scratch; show tracebacks

The same command continues an unfinished run. Every setting: avatar-gs --cfg job

Options:
  -m, --multirun              run once for each combination of values (a=1,2 b=3,4)
  -c, --cfg job|hydra|all     print the settings and stop; -p KEY prints a part, --resolve resolves them
  -sc install=bash            shell completion: eval "$(avatar-gs -sc install=bash)" (also zsh, fish)
  -i, --info                  details of the configuration, from Hydra
  -h, --help; --version
"""

LAB_HELP = """
Laboratory, which measures the program (stage=...):
{stages}"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; avatar-gs --help shows how it is used")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for an error, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _print_any_text()
    start_logging()
    return _guarded(lambda: _main(arguments), debug="debug=true" in arguments)


def _print_any_text() -> None:
    """Let terminals and logs that are not UTF-8 escape the characters that they lack, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _main(arguments: list[str]) -> int:
    options = _parse_arguments(arguments)
    if options.help:
        print(help_text())
        return 0
    if options.version:
        print(f"avatar-gs {__version__}")
        return 0
    config.register()
    hydra = start_hydra()
    try:
        return _run_hydra(hydra, options)
    finally:
        GlobalHydra.instance().clear()


def help_text() -> str:
    """The text of ``--help``."""
    presets = preset_groups()
    words = {group: " | ".join(name for name in names if name != "custom") for group, names in presets.items()}
    text = HELP.format(stages=_stage_lines(PRODUCT_STAGES), **words)
    return (text + LAB_HELP.format(stages=_stage_lines(LAB_STAGES)) if HAS_LAB else text).rstrip()


def _stage_lines(stages: Mapping[str, Stage]) -> str:
    return "".join(f"  {name:<14}{stage.help}\n" for name, stage in stages.items())


def _parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="avatar-gs", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-sc", "--shell-completion", "--shell_completion", action="store_true")
    parser.add_argument("-i", "--info", nargs="?", const="all", default=None)
    return parser.parse_intermixed_args(arguments)


def _run_hydra(hydra: Hydra, options: argparse.Namespace) -> int:
    if options.shell_completion:
        completion.run(hydra, options.overrides)
        return 0
    given = overrides.rewrite(options.overrides, multirun=options.multirun)
    parsed = _parse_overrides(hydra, given)
    if options.cfg:
        package = options.package and full_key(options.package)
        hydra.show_cfg(config.CONFIG_NAME, given, options.cfg, package, options.resolve)
        return 0
    if options.info:
        hydra.show_info(options.info, config_name=config.CONFIG_NAME, overrides=given)
        return 0
    if options.multirun:
        return _sweep(hydra, given, parsed)
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line} gives several values: add -m to run once for each of them")
        if override.key_or_group == "cluster" and override.value() is not None:
            raise UserError(f"{override.input_line} is for sweeps: add -m, also for a single run")
    job = hydra.run(config.CONFIG_NAME, _job, [*given, "hydra.mode=RUN"])
    return int(job.return_value)


def _parse_overrides(hydra: Hydra, given: list[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    parsed = []
    for override in given:
        try:
            parsed += parser.parse_overrides([override])
        except HydraException as error:
            raise UserError(f"{override}: {first_line(error)}; put the value in quotes?") from error
    return parsed


def _sweep(hydra: Hydra, given: list[str], parsed: list[Override]) -> int:
    """Run every combination; a job that fails does not stop the others."""
    for override in parsed:
        if override.key_or_group == "cluster":
            clusters.require_engine(str(override.value()))
    folder, settings = sweep.plan(parsed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        batches = hydra.multirun(config.CONFIG_NAME, _job, [*given, *settings])
    except Exception as error:
        lost = clusters.lost_job(error)
        if lost is None:
            raise
        raise lost from error
    codes = [int(job.return_value) for batch in batches for job in batch]
    if any(codes):
        print(f"{sum(map(bool, codes))} of {len(codes)} jobs failed", file=sys.stderr)
    return max(codes, default=0)


def _job(cfg: DictConfig) -> int:
    """Run one job, alone or of a sweep; returns an exit code. Only Ctrl-C leaves as an exception."""
    start_logging()  # a launcher may have started this process
    hydra = HydraConfig.get()
    job_overrides = list(hydra.overrides.task)

    def run() -> int:
        name = None
        if hydra.mode == RunMode.MULTIRUN:
            clusters.enter(hydra.runtime.cwd)
            fixed = list(hydra.job.config.override_dirname.exclude_keys)
            name = sweep.job_name(hydra.sweep.dir, cfg.outputs, job_overrides, fixed)
        settings = config.resolve(cfg, job_overrides, name)
        _dispatch(settings)
        return 0

    return _guarded(run, debug=bool(cfg.debug), catch_interrupt=False)


def _dispatch(settings: Settings) -> None:
    prepare_environment()
    if settings.stage != "optimize" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"stage={settings.stage} under torchrun: several processes serve stage=optimize only; give the other "
            "stages without torchrun, before (stage=embed) and after (stage=export)"
        )
    stage = importlib.import_module(STAGES[settings.stage].module)
    pin_threads(settings.threads)
    stage.run(settings)


def _guarded(function: Callable[[], int], *, debug: bool, catch_interrupt: bool = True) -> int:
    """Call ``function``; a user's mistake becomes one line and exit code 1, Ctrl-C becomes 130."""
    try:
        return function()
    except KeyboardInterrupt as stop:
        if not catch_interrupt:
            raise
        print(f"interrupted; {stop.args[0] if stop.args else 'the same command resumes the run'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has left
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (or Python complains at exit)
        return 1
    except Exception as error:
        line = one_line(error)
        if debug or line is None:
            traceback.print_exc()
        print(f"error: {line or f'{type(error).__name__}: {error} (internal error, please report)'}", file=sys.stderr)
        return 1


def one_line(error: Exception) -> str | None:
    """The message for an error that the user can solve; None for an internal error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return config.in_one_line(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{place}: free some space and give the same command"
    if isinstance(error, OSError) and error.errno:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{os.strerror(error.errno)} (debug=true shows where)"
    if is_out_of_memory(error):
        return (
            "out of memory: prior.encode_chunk=1, prior.checkpoint_encoder=true, prior.predict_chunk=2 need less and "
            "change no result; or give smaller optimize.batch, optimize.supersample or splats.count, or device=cpu"
        )
    return None

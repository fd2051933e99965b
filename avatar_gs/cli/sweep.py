"""The folders of a sweep's runs: the same command finds them again, and no two jobs have the same."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from avatar_gs.cli import overrides
from avatar_gs.cli.schema import short_key
from avatar_gs.core.errors import UserError
from avatar_gs.settings import OUTPUTS, Settings, home_expanded, run_name, short_hash, slug


def plan(parsed: Sequence[Override]) -> tuple[Path, list[str]]:
    """The common folder of a sweep's runs, from the root, and the overrides that tell Hydra and ``job_name`` of it.

    Raises:
        UserError: if a value is given twice, which would be two jobs on one run.
    """
    for override in parsed:
        _require_different(override)
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    fixed = sorted({override.get_key_element() for override in parsed} - swept)
    values = {override.get_key_element(): override.value() for override in parsed}
    runs = Settings(outputs=str(values.get("outputs", OUTPUTS))).runs
    folder = (runs / _common_name(parsed)).absolute()  # launchers' processes may have another working folder
    return folder, [
        "hydra.mode=MULTIRUN",
        f"hydra.sweep.dir={overrides.quote(str(folder))}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]",
    ]


def job_name(folder: str, outputs: str, job_overrides: Sequence[str], fixed: Sequence[str]) -> str:
    """The name of a job's run below ``outputs``.

    Args:
        folder: of the sweep, as ``plan`` gave it to Hydra.
        outputs: the setting.
        job_overrides: as Hydra lists them.
        fixed: the keys that all jobs have in common.
    """
    common = Path(folder).relative_to(home_expanded(outputs).absolute()).as_posix()
    return "/".join(filter(None, (common, _changed_keys(job_overrides, fixed))))


def _require_different(override: Override) -> None:
    if not override.is_choice_sweep():
        return
    values = list(override.sweep_string_iterator())
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise UserError(f"{short_key(override.key_or_group)}: {twice[0]} is given twice; a sweep makes each run once")


def _common_name(parsed: Sequence[Override]) -> str:
    """``name``, or one derived from the prompt or from everything but where the jobs run."""
    texts = OmegaConf.create(
        {override.get_key_element(): override.value() for override in parsed if _is_text(override)}
    )
    if texts.get("name"):
        return run_name(Settings(name=texts.name))
    if texts.get("prompt"):
        return f"{slug(texts.prompt)}-{short_hash(texts.prompt)}".lstrip("-")
    facts = [override for override in parsed if override.key_or_group != "cluster" and not override.is_hydra_override()]
    return f"sweep-{short_hash(*sorted(short_key(str(override.input_line)) for override in facts))}"


def _is_text(override: Override) -> bool:
    return override.get_key_element() in ("name", "prompt") and isinstance(override.value(), str)


def _changed_keys(job_overrides: Sequence[str], fixed: Sequence[str]) -> str:
    """The overrides in which a sweep's job differs from the others, as a folder name."""
    parts = []
    for override in job_overrides:
        key, _, value = override.partition("=")
        if key not in fixed:
            parts.append(f"{short_key(key)}={_file_name(overrides.strip_quotes(value))}")
    name = ",".join(parts)
    return name if len(name) <= 150 else f"{name[:140]}-{short_hash(name)}"


def _file_name(text: str) -> str:
    """A value as it is, if it is short and plain; else its words and a digest."""
    is_plain = text.isascii() and text.replace(".", "").replace("_", "").replace("-", "").isalnum()
    return text if is_plain and len(text) <= 60 else f"{slug(text)}-{short_hash(text)}".lstrip("-")

"""Composes settings from defaults, presets and overrides, and resolves them against a saved run.

Precedence: the defaults, then the run's saved ``config.yaml``, then the command line.
"""

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_gs.cli.schema import LAB_SECTIONS, SCHEMA, STAGES
from avatar_gs.core import runs
from avatar_gs.core.device import physical_cores
from avatar_gs.core.errors import UserError, first_line
from avatar_gs.core.paths import CONF
from avatar_gs.core.presets import preset_groups, read_preset
from avatar_gs.guidance.config import METHODS
from avatar_gs.prior.config import PLACEHOLDER
from avatar_gs.settings import DEVICES, MAX_SEED, RANDOM_SEED, Settings, run_name
from avatar_gs.stages import RunUse, init_run

CONFIG_NAME = "config"
# Not read from a saved run, and never in conflict with it.
_NOT_SAVED = ("stage", "name", "outputs", "overwrite", "debug", "lab", *LAB_SECTIONS)
_SAVES_MEMORY = tuple(
    f"prior.{name}" for name in ("encode_chunk", "checkpoint_encoder", "encoder_keeps", "predict_chunk", "offload_text")
)
_NO_CONFLICT = (*_NOT_SAVED, "device", "export", "motion", "pose", "animate", "view", *_SAVES_MEMORY)
# The settings that an identity depends on: the only ones that are fixed in a run without an avatar.
_IDENTITY = ("photos", "identity", "embed", "prior", "seed", "threads")


def register() -> None:
    """Makes the settings the schema that ``conf/config.yaml`` begins with."""
    ConfigStore.instance().store(name="schema", node=SCHEMA)


def composed(overrides: Iterable[str]) -> DictConfig:
    """Defaults, presets and overrides, composed by Hydra and not yet resolved."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(CONFIG_NAME, overrides=list(overrides))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one of dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def is_below(key: str, ancestors: Iterable[str]) -> bool:
    """Whether a dotted key is one of ``ancestors`` or lies below one."""
    return any(key == ancestor or key.startswith(f"{ancestor}.") for ancestor in ancestors)


def escape_interpolation(text: str) -> str:
    r"""``text`` such that OmegaConf keeps ``${…}`` as text: every ``\`` before ``${`` doubled, one added."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def explicit_keys(overrides: Iterable[str]) -> set[str]:
    """The keys (or their ancestors) that overrides set, by themselves or by a preset: ``prior=sd15`` sets ``prior``,
    ``experiment=quick`` the keys in its file."""
    groups = preset_groups()
    keys: set[str] = set()
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "cluster":  # where a run is made contradicts no saved run
            continue
        if key in groups and key not in Settings.__dataclass_fields__:
            if value in groups[key]:
                preset = read_preset(key, value)
                keys |= set(flatten(preset.values)) | set(preset.choices)
        else:
            keys.add(key)
    return keys


def chooses_prior(override: str) -> bool:
    """Whether an override names an experiment that chooses a prior (in a sweep: several that all do)."""
    key, _, value = override.partition("=")
    return key == "experiment" and all("prior" in explicit_keys([f"experiment={name}"]) for name in value.split(","))


def parse(config: DictConfig | Mapping[str, Any]) -> Settings:
    """A composed config as validated ``Settings``, with ``threads`` filled in.

    Raises:
        UserError: for an invalid value.
    """
    merged = OmegaConf.merge(OmegaConf.structured(SCHEMA), config)
    settings = cast(Settings, OmegaConf.to_object(merged))
    settings.threads = settings.threads or physical_cores()
    return settings


def resolve(config: DictConfig, overrides: Iterable[str], name: str | None = None) -> Settings:
    """The settings of one job: the command line over the saved run with its name, if there is one.

    Args:
        config: the composed config.
        overrides: the job's overrides, as Hydra lists them.
        name: replaces the run's name (in a sweep).

    Raises:
        UserError: if the command line contradicts the saved run, or a value is invalid.
    """
    settings = parse(config)
    if name is not None:
        settings.name = name
    if settings.stage not in STAGES:
        raise UserError(f"stage={settings.stage} is none of {', '.join(STAGES)}")
    explicit = explicit_keys(overrides)
    if settings.seed == RANDOM_SEED:
        settings.seed = random.SystemRandom().randrange(MAX_SEED)
        explicit -= {"seed"}  # a run that has begun keeps the one that it drew
    use = STAGES[settings.stage].run
    if use is RunUse.none:
        return settings
    if settings.init:
        settings.init = init_run.run_folder(settings.init, settings.runs)
        settings.name = run_name(settings)  # before values of init are filled in
        init_run.require_other_run(settings)
    from_scratch = settings.overwrite and use is RunUse.make
    if runs.has_begun(settings.folder) and not from_scratch:
        try:
            saved = runs.read_config(settings.folder)
        except UserError as error:
            raise UserError(f"{error}: overwrite=true starts the run from scratch") from error
        settings = _over_saved(settings, saved, settings.folder / runs.CONFIG_FILE, explicit)
    elif use is RunUse.export:
        raise UserError(
            f"{settings.folder} is no run{_runs_there(settings.runs)}; "
            f"stage={settings.stage} needs name=… of one, or its prompt and seed"
        )
    if settings.init and not settings.source_prompt and use is not RunUse.export:
        settings = init_run.inherit_settings(settings, body_given=bool({"body", "body.path", "body.betas"} & explicit))
    if settings.source_prompt and not settings.init:
        raise UserError(
            f"source_prompt={settings.source_prompt}: needs init=<folder of a run>, whose avatar it describes"
        )
    if settings.stage in ("all", "optimize"):
        settings.guidance.chosen.require_source(bool(settings.init))
    _check_person(settings)
    if not settings.prompt.strip() and not settings.has_identity:
        raise UserError(
            "prompt is empty: say what the avatar looks like, for instance "
            'prompt="a man in a red shirt and blue trousers" (or name=… of a run that exists)'
        )
    return settings


def _check_person(settings: Settings) -> None:
    """Raise UserError if the stage or the prompt needs a person and none is given."""
    how = "give photos=<folder of photos of one person> or identity=<file>"
    if settings.stage == "embed" and not settings.has_identity:
        raise UserError(f"stage=embed: whose identity? {how}")
    if PLACEHOLDER in settings.prompt + settings.source_prompt and not settings.has_identity:
        raise UserError(f"prompt: nobody is known as {PLACEHOLDER} in this run; {how}, or leave it out")


def _runs_there(folder: Path) -> str:
    names = [file.parent.relative_to(folder).as_posix() for file in folder.glob("**/config.yaml")]
    return f" (there are {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''})" if names else ""


def _over_saved(settings: Settings, content: Mapping[str, Any], saved_file: Path, explicit: set[str]) -> Settings:
    given, saved = flatten(settings.plain()), flatten(content)
    types = setting_types()
    saved = {key: _canonical(value, types.get(key)) for key, value in saved.items() if not is_below(key, _NOT_SAVED)}
    unknown = sorted(saved.keys() - given.keys())
    if unknown:
        raise UserError(
            f"{saved_file}: unknown {', '.join(unknown)} (written by another version?); "
            "overwrite=true starts the run from scratch, name=… starts another"
        )
    differing = sorted(key for key in saved if is_below(key, explicit) and saved[key] != given[key])
    conflicts = [key for key in differing if not is_below(key, _NO_CONFLICT)]
    if given["optimize.steps"] > saved.get("optimize.steps", 0):  # the run goes on
        conflicts = [key for key in conflicts if key != "optimize.steps"]
    if runs.has_only_an_identity(saved_file.parent):
        conflicts = [key for key in conflicts if is_below(key, _IDENTITY)]
    if conflicts and STAGES[settings.stage].run is not RunUse.preview:
        pairs = ", ".join(f"{key} (saved {saved[key]!r}, given {given[key]!r})" for key in conflicts)
        raise UserError(
            f"{saved_file.parent} is a run with another configuration: {pairs}; "
            "leave these out to continue it, overwrite=true starts it from scratch, name=… starts another"
        )
    taken = {key: value for key, value in saved.items() if not is_below(key, explicit)}
    try:
        return parse(_nested(given | taken))
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(f"{saved_file}: {first_line(error)}") from error


def _canonical(value: Any, kind: Any) -> Any:
    """A saved value; of an enum's alias, the present name."""
    if isinstance(kind, type) and issubclass(kind, Enum) and value in kind.__members__:
        return kind.__members__[value].name
    return value


def saved_settings(folder: Path) -> Settings:
    """The settings that a run was made with.

    Raises:
        UserError: if its ``config.yaml`` is missing or damaged.
    """
    return _over_saved(parse({}), runs.read_config(folder), folder / runs.CONFIG_FILE, set())


def _nested(flat: Mapping[str, Any]) -> DictConfig:
    config = OmegaConf.create()
    for key, value in flat.items():
        OmegaConf.update(config, key, _escaped(value))
    return config


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape_interpolation(value) if isinstance(value, str) else value


def setting_types(config: type = SCHEMA, prefix: str = "") -> dict[str, Any]:
    """The type of every setting by its dotted name, without ``Optional``."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(config).items():
        options = get_args(hint)
        kind = next(option for option in options if option is not NoneType) if NoneType in options else hint
        if is_dataclass(kind):
            types |= setting_types(cast(type, kind), f"{prefix}{name}.")
        elif name in config.__dataclass_fields__:
            types[f"{prefix}{name}"] = kind
    return types


def enum_choices() -> dict[str, list[str]]:
    """The settings with a fixed set of values, and these values."""
    types = setting_types().items()
    enums = {key: list(kind.__members__) for key, kind in types if isinstance(kind, type) and issubclass(kind, Enum)}
    return {"stage": list(STAGES), "guidance.method": list(METHODS), "device": list(DEVICES)} | enums


def text_keys() -> set[str]:
    """The settings that hold free text or a path."""
    return {key for key, kind in setting_types().items() if kind is str} - {"stage", "guidance.method", "device"}


def in_one_line(error: HydraException | OmegaConfBaseException) -> str:
    """What is wrong with a setting, from Hydra's or OmegaConf's error."""
    if isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    lines = [str(cause).splitlines()[0].rstrip() for cause in (error, error.__cause__) if cause and str(cause)]
    return ": ".join(dict.fromkeys(lines)).removeprefix("Error merging override ")

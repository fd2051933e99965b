"""The settings of the product: one dataclass of the packages' own. Imports neither Hydra nor torch."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from avatar_gs.body.config import BodyConfig
from avatar_gs.core.errors import UserError
from avatar_gs.export.config import ExportConfig
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.identity.config import EmbedConfig
from avatar_gs.prior.config import PLACEHOLDER, PriorConfig
from avatar_gs.render.config import CamerasConfig
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig

OUTPUTS = Path("outputs")
MAX_SEED = 2**31 - 1


class Device(Enum):
    """Where tensors live; ``auto`` is CUDA if there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class Settings:
    """The product's settings; ``avatar_gs.lab.settings`` adds the laboratory's."""

    stage: str = "all"
    """What the command does: a name in ``avatar_gs.stages.STAGES``, or of the laboratory."""
    prompt: str = ""
    negative_prompt: str = ""
    """What the avatar must not look like; empty: the prior's own words."""
    photos: str = ""
    """A folder, file or glob of photos of one person, who is ``<id>`` in the prompt (in front of it if it names
    nobody)."""
    identity: str = ""
    """An identity file, in place of photos."""
    init: str = ""
    """The folder (or name) of a run whose avatar this one begins with; empty: the body's surface."""
    source_prompt: str = ""
    """What editing (``guidance=pds``, ``dds``) takes the avatar of ``init`` to be; empty: the prompt of its run."""
    name: str = ""
    """The run's folder below ``outputs/``; empty: made from prompt and seed."""
    seed: int = 0
    device: Device = Device.auto
    threads: int = 0
    """CPU threads; 0: one for each physical core. The same seed and threads give the same bytes on a CPU."""
    overwrite: bool = False
    """Start the run anew instead of resuming it."""
    debug: bool = False
    """Show a traceback with every error."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    body: BodyConfig = field(default_factory=BodyConfig)
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    splats: SplatsConfig = field(default_factory=SplatsConfig)
    density: DensityConfig = field(default_factory=DensityConfig)
    optimize: OptimizeConfig = field(default_factory=OptimizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed={self.seed}: expected 0 to {MAX_SEED}")
        if not 0 <= self.threads <= 1024:
            raise UserError(f"threads={self.threads}: expected 1 to 1024, or 0 for one on each physical core")
        if self.photos and self.identity:
            raise UserError(f"photos={self.photos} and identity={self.identity}: give one of them, not both")

    @property
    def has_identity(self) -> bool:
        """Whether the avatar is of a person given by photos or by an identity file."""
        return bool(self.photos or self.identity)

    @property
    def folder(self) -> Path:
        """The run's folder (see ``run_name``)."""
        return OUTPUTS / run_name(self)

    def plain(self) -> dict[str, Any]:
        """The settings as dictionaries, lists, strings, numbers, booleans and None, as ``config.yaml`` holds them."""
        return _plain(self)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        values = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        # sections without settings (guidance.sds) are left out
        return {name: _plain(entry) for name, entry in values.items() if not is_dataclass(entry) or fields(entry)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def slug(text: str, length: int = 40) -> str:
    """``text`` as a file name of at most ``length`` characters of a-z, 0-9 and ``-``; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:length].rstrip("-")


def short_hash(*parts: object) -> str:
    """Eight hexadecimal digits that stand for the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]


def run_name(settings: Settings) -> str:
    """``settings.name``, or a name made of the person (the folder or file that shows them) or the run it begins with,
    and the prompt, and a hash of these and the seed.

    Raises:
        UserError: if the name is no folder below ``outputs/``.
    """
    name = settings.name
    if not name and settings.init:
        words = f"{Path(settings.init).name} {settings.prompt.replace(PLACEHOLDER, ' ')}"
        made_of = short_hash(settings.prompt, settings.seed, settings.photos, settings.identity, settings.init)
        return f"{slug(words)}-{made_of}".lstrip("-")
    if not name:
        source = settings.photos or settings.identity
        if source:
            words = settings.prompt.replace(PLACEHOLDER, " ")
            made_of = short_hash(settings.prompt, settings.seed, settings.photos, settings.identity)
            return f"{slug(f'{_person(source)} {words}')}-{made_of}".lstrip("-")
        return f"{slug(settings.prompt)}-{short_hash(settings.prompt, settings.seed)}".lstrip("-")
    parts = name.replace("\\", "/").split("/")
    if name != name.strip() or any(part in ("", ".", "..") or not part.isprintable() or ":" in part for part in parts):
        raise UserError(f"name={name!r}: expected a folder below {OUTPUTS}/, such as name=anna or name=people/anna")
    if any(len(part.encode()) > 200 for part in parts):
        raise UserError(f"name={name[:40]}…: a folder's name may have at most 200 bytes; give a shorter one")
    return name


def _person(source: str) -> str:
    """What a folder, glob or file calls the person: the last part of the path that is no pattern."""
    path = Path(source)
    named = [part for part in (path, *path.parents) if not set(part.name) & set("*?[")]
    return named[0].stem if named else ""

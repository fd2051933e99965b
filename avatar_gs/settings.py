"""The settings of the product: one dataclass of the packages' own. Imports neither Hydra nor torch."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avatar_gs.body.config import BodyConfig
from avatar_gs.core.errors import UserError
from avatar_gs.core.plain import plain
from avatar_gs.export.config import ExportConfig
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.identity.config import EmbedConfig
from avatar_gs.motion.config import AnimateConfig
from avatar_gs.prior.config import PLACEHOLDER, PriorConfig
from avatar_gs.render.config import CamerasConfig
from avatar_gs.splats.config import DensityConfig, SplatsConfig
from avatar_gs.training.config import OptimizeConfig, TrainingConfig
from avatar_gs.viewer.config import ViewConfig

OUTPUTS = Path("outputs")
MAX_SEED = 2**31 - 1
RANDOM_SEED = -1
DEVICES = ("auto", "cpu", "cuda", "mps")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass
class Settings:
    """The product's settings; ``avatar_gs.lab.settings`` adds the laboratory's."""

    stage: str = "all"
    """What the command does: a name in ``avatar_gs.stages.STAGES``, or of the laboratory."""
    prompt: str = ""
    negative_prompt: str = ""
    """What the avatar must not look like; empty: the prior's negative prompt."""
    photos: str = ""
    """A folder, file or glob of photos of one person: ``<id>`` in the prompt, or before a prompt without it."""
    identity: str = ""
    """An identity file, instead of photos."""
    embeddings: list[str] = field(default_factory=list)
    """Further textual inversions (styles, things), each named in prompts by its file: ``<ink>`` for ``ink.pt``."""
    init: str = ""
    """Folder or name of the run whose avatar this one starts from; empty: grey splats on the body's surface."""
    source_prompt: str = ""
    """Description of the avatar of ``init``, for editing (``guidance=pds``, ``dds``); empty: the prompt of its run."""
    motion: str = ""
    """What ``stage=animate`` shows: a packaged motion, or a file (``.npz``, ``.bvh``, ``.json``, ``.csv``)."""
    pose: str = ""
    """The pose of exports and of ``stage=preview``: ``a``, ``t``, or a frame of a motion such as ``wave@40``; empty:
    the A-pose."""
    name: str = ""
    """The run's folder below ``outputs``; empty: derived from prompt and seed."""
    outputs: str = OUTPUTS.as_posix()
    """Folder of the runs, and of the identities that were learned from photos."""
    seed: int = 0
    """0 to 2147483647; ``random`` (or -1) draws one, which the run's ``config.yaml`` records."""
    device: str = "auto"
    """``cpu``, ``cuda``, one of several GPUs as ``cuda:1``, or ``mps`` (refused: splats are rendered on CPU or CUDA).
    ``auto`` is CUDA if there is one."""
    threads: int = 0
    """CPU threads, 1 to 1024; 0: one per physical core. The same seed and threads give the same bytes on a CPU."""
    overwrite: bool = False
    """Start the run from scratch instead of resuming it."""
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
    animate: AnimateConfig = field(default_factory=AnimateConfig)
    view: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        if not RANDOM_SEED <= self.seed <= MAX_SEED:
            raise UserError(f"seed={self.seed}: expected 0 to {MAX_SEED}, or random")
        if not _DEVICE.fullmatch(self.device):
            raise UserError(f"device={self.device}: expected {', '.join(DEVICES)}, or one of several GPUs as cuda:1")
        if not self.outputs.strip() or not self.outputs.isprintable():
            raise UserError(f"outputs={self.outputs!r}: expected a folder, such as outputs=/data/avatars")
        if not 0 <= self.threads <= 1024:
            raise UserError(f"threads={self.threads}: expected 1 to 1024, or 0 for one on each physical core")
        if self.photos and self.identity:
            raise UserError(f"photos={self.photos} and identity={self.identity}: give one of them, not both")

    @property
    def has_identity(self) -> bool:
        """Whether photos or an identity file show the person."""
        return bool(self.photos or self.identity)

    @property
    def training(self) -> TrainingConfig:
        """The settings that the optimisation depends on."""
        return TrainingConfig(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            source_prompt=self.source_prompt,
            has_identity=self.has_identity,
            init=self.init,
            seed=self.seed,
            optimize=self.optimize,
            guidance=self.guidance,
            splats=self.splats,
            density=self.density,
            cameras=self.cameras,
            prompts=self.prior.prompts,
        )

    @property
    def folder(self) -> Path:
        """The run's folder (see ``run_name``)."""
        return self.runs / run_name(self)

    @property
    def runs(self) -> Path:
        """The folder ``outputs``."""
        return home_expanded(self.outputs)

    def plain(self) -> dict[str, Any]:
        """The settings as dictionaries, lists, strings, numbers, booleans and None, as in ``config.yaml``."""
        return plain(self)


def home_expanded(path: str) -> Path:
    """``path`` with a leading ``~`` replaced by the home folder, if there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~nobody
        return Path(path)


def slug(text: str, length: int = 40) -> str:
    """``text`` as a file name of at most ``length`` characters of a-z, 0-9 and ``-``; may be empty."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:length].rstrip("-")


def short_hash(*parts: object) -> str:
    """Eight hexadecimal digits derived from the parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]


def run_name(settings: Settings) -> str:
    """``settings.name``, or a name derived from the person (or ``init``), the prompt and the seed.

    Raises:
        UserError: if the name is not a folder below ``outputs``.
    """
    name, source = settings.name, settings.photos or settings.identity
    if not name:
        facts: list[object] = [settings.prompt, settings.seed]
        if source or settings.init:
            facts += [settings.photos, settings.identity]
        if settings.init:
            facts.append(settings.init)
        subject = Path(settings.init).name if settings.init else _person(source) if source else ""
        words = f"{subject} {settings.prompt.replace(PLACEHOLDER, ' ')}"
        return f"{slug(words)}-{short_hash(*facts)}".lstrip("-")
    parts = name.replace("\\", "/").split("/")
    if name != name.strip() or any(part in ("", ".", "..") or not part.isprintable() or ":" in part for part in parts):
        raise UserError(
            f"name={name!r}: expected a folder below {settings.outputs}/, such as name=anna or name=people/anna"
        )
    if any(len(part.encode()) > 200 for part in parts):
        raise UserError(f"name={name[:40]}…: a folder's name may have at most 200 bytes; give a shorter one")
    return name


def _person(source: str) -> str:
    """The person's name from a path or glob: its last part that is not a pattern."""
    path = Path(source)
    named = [part for part in (path, *path.parents) if not set(part.name) & set("*?[")]
    return named[0].stem if named else ""

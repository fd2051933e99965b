"""The runs that claims are checked on: what is optimised, by which method, how long.

Every method has its paper's scale and schedule (the preset's), but for what the recipe says.
"""

from dataclasses import dataclass, replace

from avatar_gs.guidance.cfg import Unconditional
from avatar_gs.guidance.config import GuidanceConfig
from avatar_gs.guidance.presets import named_preset
from avatar_gs.guidance.schedule import ScheduleConfig, ScheduleKind
from avatar_gs.lab.playground.config import FieldKind, Init, PlaygroundConfig

AMBIGUOUS = "a person"
"""A prompt that leaves the prior many modes."""
FEWER = 0.2
"""The fraction of the steps that a run with an amplified score takes, and one over its factor."""
FACTOR = round(1 / FEWER)
SADDLE_STEPS = 20
"""Enough to see whether anything moves, however long the other runs are."""
TOY = "plane"


@dataclass(frozen=True)
class Recipe:
    """One recipe for an image. Without ``guidance`` the prior's own samples, which others are measured against."""

    label: str
    guidance: GuidanceConfig | None = None
    field: FieldKind = FieldKind.epl
    init: Init = Init.gaussian
    control: bool = True
    ambiguous: bool = False
    fraction: float = 1.0
    """Of ``evaluate.claim_steps``."""
    brief: bool = False
    """``SADDLE_STEPS`` instead."""

    @property
    def reference(self) -> str:
        """The recipe of the samples that its figures are compared with."""
        if self.ambiguous:
            return "samples_ambiguous"
        return "samples" if self.control else "samples_free"

    def steps(self, total: int) -> int:
        return SADDLE_STEPS if self.brief else max(1, round(self.fraction * total))

    def playground(self, config: PlaygroundConfig, total: int) -> PlaygroundConfig:
        """The playground's settings: grid and learning rates are the command's."""
        steps = self.steps(total)
        changes = {"field": self.field, "init": self.init, "control": self.control, "image": "", "source_prompt": ""}
        return replace(config, **changes, steps=steps, every=steps)


def recipes() -> dict[str, Recipe]:
    """Every recipe by its name."""
    uniform = ScheduleConfig(kind=ScheduleKind.uniform)
    sds = replace(named_preset("sds"), cfg_scale=7.5, unconditional=Unconditional.empty, schedule=uniform)
    nfsd, robust, de_sds = (named_preset(name) for name in ("nfsd", "robust_nfsd", "de_sds"))
    # SDS at s + 1 against the negative prompt pulls as DE-SDS at s does
    equal = replace(named_preset("sds"), cfg_scale=de_sds.cfg_scale + 1, schedule=uniform)
    annealed = replace(named_preset("annealed_nfsd"), inner_steps=1)

    def free(label: str, guidance: GuidanceConfig | None) -> Recipe:
        return Recipe(label, guidance, control=False)

    def fewer(label: str, guidance: GuidanceConfig, fraction: float = FEWER) -> Recipe:
        # from grey: so faint a correction leaves the noise of a random start where it is
        return Recipe(label, guidance, init=Init.grey, control=False, fraction=fraction)

    def colours(label: str, guidance: GuidanceConfig) -> Recipe:
        return Recipe(label, guidance, FieldKind.ehc, Init.grey, control=False)

    def brief(label: str, field: FieldKind, init: Init) -> Recipe:
        return Recipe(label, sds, field, init, brief=True)

    def vague(label: str, guidance: GuidanceConfig | None) -> Recipe:
        return Recipe(f"{label}, “{AMBIGUOUS}”", guidance, ambiguous=True)

    return {
        "samples": Recipe("the prior's own samples"),
        "samples_free": free("samples without ControlNet", None),
        "samples_ambiguous": vague("samples", None),
        "sds": Recipe("SDS, s = 7.5", sds),
        "sds_free": free("SDS without ControlNet", sds),
        "sds_100": Recipe("SDS, s = 100", replace(sds, cfg_scale=100.0)),
        "nfsd": Recipe("NFSD, s = 7.5", nfsd),
        "nfsd_free": free("NFSD without ControlNet", nfsd),
        "de_sds_modes": vague("DE-SDS", de_sds),
        "sds_modes": vague("SDS, t uniform", equal),
        "sds_annealed_modes": vague("SDS, t annealed", replace(equal, schedule=de_sds.schedule)),
        "ehc": colours("NFSD, grid of colours", nfsd),
        "ehc_robust": colours("robust NFSD, grid of colours", robust),
        "ehl_zero": brief("grid of latents from zero", FieldKind.ehl, Init.zero),
        "ehl_grey": brief("grid of latents from grey", FieldKind.ehl, Init.grey),
        "epl_zero": brief("latent pixels from zero", FieldKind.epl, Init.zero),
        "annealed": fewer("annealed NFSD from grey", annealed, 1.0),
        "annealed_fewer": fewer("annealed NFSD, a fifth of the steps", annealed),
        "annealed_refit": fewer("… each score followed five times", replace(annealed, inner_steps=FACTOR)),
        "annealed_factor": fewer("… each score times five", replace(annealed, weight_scale=float(FACTOR))),
        TOY: Recipe("points of a plane: SDS, DDS, PDS"),
    }

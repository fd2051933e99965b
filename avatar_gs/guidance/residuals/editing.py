"""What the editing methods share: a source (latents and prompt) that takes the same noise as the picture."""

from jaxtyping import Float
from torch import Tensor

from avatar_gs.guidance.conditions import TextConditions
from avatar_gs.guidance.config import Method, require_source
from avatar_gs.guidance.noise import Noised, with_noise
from avatar_gs.guidance.residuals.base import Context, Predictor
from avatar_gs.guidance.weights import Cfg


def check_source(method: Method, conditions: TextConditions) -> None:
    """Raises UserError where nothing is there to edit."""
    require_source(method, "source" in conditions.extra)


def guided_pair(
    noised: Noised, predict: Predictor, context: Context, cfg: Cfg
) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
    """``(target, source, z_source)``: guided predictions of the picture under its text and of the source under its own,
    with the same noise, both away from the same condition; and the source's latents.

    Raises:
        ValueError: if the context has no source.
    """
    if context.source is None:
        raise ValueError("editing methods need the source's latents: Guidance.step(..., source=latents)")
    source = with_noise(predict.prior, context.source.to(noised.z), noised.t, noised.reference)
    asked = {name: (noised, cond) for name, cond in context.asked(*cfg.names).items()}
    theirs = {
        "source": (source, context.conditions["source"]),
        "source_away": (source, context.conditions[cfg.unconditional]),
    }
    eps = predict.together({**asked, **theirs})
    of_source = Cfg(cfg.scale, cfg.unconditional, cfg.rescale)(
        {"text": eps["source"], cfg.unconditional: eps["source_away"]}
    )
    return cfg(eps), of_source, source.z

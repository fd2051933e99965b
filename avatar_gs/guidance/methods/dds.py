"""DDS: Delta Denoising Score (Hertz et al. 2023, arXiv:2304.07090), for editing."""

from dataclasses import dataclass

from avatar_gs.core.lazy import Float, Tensor
from avatar_gs.guidance.cfg import Cfg
from avatar_gs.guidance.methods.base import (
    Context,
    Method,
    MethodConfig,
    Noised,
    Predictor,
    Residual,
    Setup,
    with_noise,
)


@dataclass
class DdsConfig(MethodConfig):
    """DDS has no settings of its own."""

    section = "guidance.dds"
    edits = True

    def build(self, setup: Setup) -> "Dds":
        self.require_source("source" in setup.conditions.extra)
        return Dds(setup.cfg)


class Dds(Method):
    """``delta = cfg_s(z_t; text) - cfg_s(z_t of the source; its prompt)``, both with the same noise, which cancels."""

    def __init__(self, cfg: Cfg) -> None:
        self.cfg = cfg

    def __call__(self, noised: Noised, predict: Predictor, context: Context) -> Residual:
        target, source, _ = guided_pair(noised, predict, context, self.cfg)
        return Residual(target - source, target)


def guided_pair(
    noised: Noised, predict: Predictor, context: Context, cfg: Cfg
) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:
    """Guided predictions of an image and of the source it is edited from.

    Returns:
        ``(target, source, z_source)``: the prediction of the image under its text and of the source under its own
        prompt, with the same noise and the same unconditional condition; and the source's latents.

    Raises:
        ValueError: if the context has no source.
    """
    if context.source is None:
        raise ValueError("editing methods need the source's latents: StepInputs(..., source=latents)")
    source = with_noise(predict.prior, context.source.to(noised.z), noised.t, noised.reference)
    eps = predict.together(
        {
            **{name: (noised, condition) for name, condition in context.select(*cfg.names).items()},
            "source": (source, context.conditions["source"]),
            "source_away": (source, context.conditions[cfg.unconditional]),
        }
    )
    of_source = Cfg(cfg.scale, cfg.unconditional, cfg.rescale)(
        {"text": eps["source"], cfg.unconditional: eps["source_away"]}
    )
    return cfg(eps), of_source, source.z

"""What networks predict, and the noise that it means."""

from jaxtyping import Float
from torch import Tensor

KINDS = ("epsilon", "v_prediction", "flow_prediction")


def to_eps(
    kind: str,
    output: Float[Tensor, "B c h w"],
    z_t: Float[Tensor, "B c h w"],
    alpha: Float[Tensor, "B 1 1 1"],
    sigma: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, "B c h w"]:
    """The noise prediction of a network, for z_t = alpha z + sigma eps.

    v_prediction: v = alpha eps - sigma z, alpha^2 + sigma^2 = 1, so eps = alpha v + sigma z_t (Salimans and Ho 2022).
    flow_prediction: v = eps - z, alpha + sigma = 1, so eps = z_t + alpha v (Lipman et al. 2022, Liu et al. 2022).
    """
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * z_t
    if kind == "flow_prediction":
        return z_t + alpha * output
    raise ValueError(f"prediction {kind}: expected one of {', '.join(KINDS)}")

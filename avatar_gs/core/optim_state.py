"""Adam's state as named tensors, so that checkpoints need no pickle."""

from collections.abc import Mapping

from avatar_gs.core.errors import UserError
from avatar_gs.core.lazy import Tensor, torch

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""The state of Adam and AdamW for one parameter."""


def optimizer_tensors(
    optimizer: "torch.optim.Optimizer", parameters: Mapping[str, Tensor], key: str = "adam.{moment}.{name}"
) -> dict[str, Tensor]:
    """Copies of the moments and step counts; parameters without a step yet have none.

    Args:
        optimizer: Adam or AdamW over at least ``parameters``.
        parameters: by the name that they have in files.
        key: template of the tensors' names, with ``{moment}`` and ``{name}``.
    """
    return {
        key.format(moment=moment, name=name): optimizer.state[parameter][moment].detach().clone()
        for name, parameter in parameters.items()
        for moment in MOMENTS
        if moment in optimizer.state.get(parameter, {})
    }


def load_optimizer_tensors(
    optimizer: "torch.optim.Optimizer",
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    key: str = "adam.{moment}.{name}",
) -> None:
    """Restore the result of ``optimizer_tensors``; parameters without tensors start without state.

    Raises:
        UserError: if the state of a parameter is incomplete or has another shape.
    """
    for name, parameter in parameters.items():
        optimizer.state.pop(parameter, None)
        keys = {moment: key.format(moment=moment, name=name) for moment in MOMENTS}
        found = {moment: tensors[key] for moment, key in keys.items() if key in tensors}
        if not found:
            continue
        if len(found) < len(MOMENTS) or any(found[moment].shape != parameter.shape for moment in MOMENTS[1:]):
            raise UserError(
                f"checkpoint: the optimiser state of '{name}' does not fit its shape {tuple(parameter.shape)}"
            )
        # Adam keeps its step count on the CPU; the moments are on the parameter's device.
        optimizer.state[parameter] = {
            moment: value.clone().to("cpu" if moment == "step" else parameter.device) for moment, value in found.items()
        }

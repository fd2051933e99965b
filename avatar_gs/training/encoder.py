"""What encodes the renders of a step."""

from collections.abc import Callable

from torch import Tensor

from avatar_gs.protocols import Prior, StagedPrior


def encoder_at(prior: Prior, progress: float) -> Callable[[Tensor], Tensor]:
    """Images ``[B, H, W, 3]`` in [0, 1] to scaled latents; of a staged prior by ``progress``, the fraction of the steps
    that lie before this one."""
    return prior.encoder_at(progress) if isinstance(prior, StagedPrior) else prior.encode_images

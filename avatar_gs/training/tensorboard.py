"""TensorBoard scalars, for those who ask for them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from avatar_gs.core.errors import UserError
from avatar_gs.core.runs import RunFolder

WriteScalars = Callable[[int, Mapping[str, float]], None]


@contextmanager
def scalar_writer(run: RunFolder | None, enabled: bool, first_step: int) -> Iterator[WriteScalars]:
    """A function that writes a step's scalars; it does nothing unless ``enabled`` and there is a run's folder.

    Raises:
        UserError: if TensorBoard is asked for and not installed.
    """
    if run is None or not enabled:
        yield lambda step, scalars: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "optimize.tensorboard=true: TensorBoard is not installed; pip install tensorboard, or leave the option out"
        ) from error
    # scalars that an interrupted run wrote after its last checkpoint are about to be written again
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def write(step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        writer.close()

"""Settings of ``stage=benchmark``."""

from dataclasses import dataclass, field

from avatar_gs.core.errors import UserError, require
from avatar_gs.core.validation import Section, bounded


@dataclass
class BenchmarkConfig(Section):
    """What ``stage=benchmark`` times: one row of the table for each pair of ``splats`` and ``pixels``."""

    section = "benchmark"
    splats: list[int] = field(default_factory=lambda: [1_000, 10_000, 20_000, 50_000, 100_000])
    """Numbers of splats, 1 to 10,000,000 each."""
    pixels: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 512])
    """Sides of the square images in pixels, 1 to 8192 each; as many as ``splats``."""
    step: bool = False
    """Time whole optimisation steps with random weights of ``prior`` instead, compared with the prior's cost alone;
    views, sizes, splats and guidance are the run's."""
    repeats: int = bounded(9, low=1, high=10_000)
    dense_limit: int = 8_000_000
    """Largest splats x pixels of the image at which the dense reference is timed; it needs about 200 bytes for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.splats or len(self.splats) != len(self.pixels):
            raise UserError(
                f"benchmark.splats={self.splats} benchmark.pixels={self.pixels}: expected two lists of one length, "
                "such as benchmark.splats=[10000,20000] benchmark.pixels=[128,256]"
            )
        for name, values, high in (("splats", self.splats, 10_000_000), ("pixels", self.pixels, 8192)):
            require(
                all(1 <= value <= high for value in values), f"benchmark.{name}", values, f"numbers from 1 to {high}"
            )

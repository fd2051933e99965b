"""Settings of ``stage=view``."""

from dataclasses import dataclass

from avatar_gs.core.validation import Section, bounded


@dataclass
class ViewConfig(Section):
    """The server of ``stage=view``, which this machine alone can reach."""

    section = "view"
    port: int = bounded(0, 0, 65535)
    """Where it listens, 0 to 65535; 0: any free port."""

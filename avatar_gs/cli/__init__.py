"""The command ``avatar-gs``: quote, compose, dispatch."""

from avatar_gs.cli.command import main, one_line

__all__ = ["main", "one_line"]

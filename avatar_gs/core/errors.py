"""Errors caused by the user's input."""


class UserError(Exception):
    """An error that the user can fix: one line with file or override, what was found, what is expected and the remedy.

    The command prints it without a traceback and exits with 1.
    """


def require(holds: bool, override: str, value: object, expected: str) -> None:
    """Raise UserError with the override, its value and what is expected, unless ``holds``."""
    if not holds:
        raise UserError(f"{override}={value}: expected {expected}")


def require_counts(prefix: str, config: object, **ranges: tuple[int, int]) -> None:
    """Raise UserError for the first field of ``config`` outside its closed range."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        require(low <= value <= high, f"{prefix}.{name}", value, f"a whole number from {low} to {high}")

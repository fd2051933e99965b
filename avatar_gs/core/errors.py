"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the file or override, what was found, what is
    expected and what to do. The command prints it without a traceback and exits with 1."""


def require(holds: bool, override: str, value: object, expected: str) -> None:
    """Raises UserError, which names the override, its value and what was expected, unless ``holds``."""
    if not holds:
        raise UserError(f"{override}={value}: expected {expected}")


def require_counts(prefix: str, config: object, **ranges: tuple[int, int]) -> None:
    """Raises UserError for the first field of ``config`` outside its range (both ends belong to it)."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        require(low <= value <= high, f"{prefix}.{name}", value, f"a whole number from {low} to {high}")

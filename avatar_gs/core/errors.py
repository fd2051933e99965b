"""Errors caused by the user's input."""


class UserError(Exception):
    """An error that the user can fix: one line with file or override, what was found, what is expected and the remedy.

    The command prints it without a traceback and exits with 1.
    """


def require(holds: bool, override: str, value: object, expected: str) -> None:
    """Raise UserError with the override, its value and what is expected, unless ``holds``."""
    if not holds:
        raise UserError(f"{override}={value}: expected {expected}")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

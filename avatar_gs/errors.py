"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the file or override, what was found, what is
    expected and what to do. The command prints it without a traceback and exits with 1."""

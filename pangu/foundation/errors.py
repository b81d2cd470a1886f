"""The exception that a person sees as a line instead of a traceback."""


class UserError(Exception):
    """A mistake in what the user gave. The message is one line: which file, field or record, and what would be right.

    The command line prints it to standard error and exits with code 2.
    """


class PlacedError(UserError):
    """A mistake whose message already names its file, and its line where there is one."""

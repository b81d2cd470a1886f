"""The exceptions that a person sees as a line instead of a traceback."""

import os


class UserError(Exception):
    """A mistake in what the user gave. The message is one line: which file, field or record, and what would be right.

    The command line prints it to standard error and exits with code 2.
    """


class PlacedError(UserError):
    """A mistake whose message already names its file, and its line where there is one."""


class WriteError(UserError, OSError):
    """A file or folder that cannot be written: a full disk, a missing folder, no permission.

    It is an OSError too, so that those who can go on without the file need not know the difference.
    """

    def __init__(self, path: os.PathLike | str, error: OSError | ValueError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        super().__init__(f"{os.fspath(path)}: cannot be written: {reason}")
        self.errno, self.strerror, self.filename = getattr(error, "errno", None), reason, os.fspath(path)

    def __str__(self) -> str:
        return f"{self.filename}: cannot be written: {self.strerror}"

    def __reduce__(self) -> tuple:
        return type(self), (self.filename, OSError(self.errno, self.strerror))

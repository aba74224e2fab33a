"""A file as a lock: held for as long as any process has it open, and let go by the system when the last one dies."""

import errno
from typing import IO, Any

from ...errors import FileError, require

require("sweep", "fcntl")

import fcntl  # noqa: E402


def take(file: IO[Any]) -> bool:
    """Takes the lock of a file opened for writing; returns False if somebody holds it.

    The lock belongs to the open file: a process that was started with the file holds it too, and keeps it when
    the one that took it is gone.

    Raises:
        FileError: if the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise FileError(
            f"{file.name} cannot be locked: {error}. A sweep needs a file system with locks; choose another --output."
        ) from error
    return True

"""A file as a lock: held while any process has it open, and released by the system when the last of them ends."""

import errno
import fcntl
from typing import IO, Any

from ...errors import FileError


def take(file: IO[Any]) -> bool:
    """Takes the lock of a file opened for writing; returns False if another process holds it.

    The lock belongs to the open file: a child process that inherits the file holds the lock too, and keeps it when its
    parent has ended.

    Raises:
        FileError: if the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise FileError(
            f"{file.name} cannot be locked: {error}. A sweep needs a file system with locks: give another --output."
        ) from error
    return True

"""How much memory there is: what a file asks for is compared with it before any is taken."""

import os
import sys

from .errors import InvalidInputError


def physical() -> int:
    """Returns the bytes of memory of this machine; where the system does not tell, as Windows', no limit."""
    if sys.platform == "win32":
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_beyond(nbytes: int, what: str) -> None:
    """Raises InvalidInputError if something would take more memory than this machine has.

    Args:
        nbytes: that it would take.
        what: it is, in words: "The model in FOLDER".
    """
    if nbytes > physical():
        raise InvalidInputError(
            f"{what} would take {nbytes:,} bytes of memory, and this machine has {physical():,}. Check where it is from, or "
            "load it on a larger one."
        )

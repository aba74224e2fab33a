"""Optional dependencies: one sentence with the install command where one is missing."""

import importlib.util

from .errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Raises MissingExtraError, naming the extra to install, if one of the modules is not there."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"This needs {', '.join(missing)}, not installed here: pip install 'fineprune[{extra}]'")

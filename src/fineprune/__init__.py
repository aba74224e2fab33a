"""fineprune: prune a transformer while you fine-tune it (movement pruning, Sanh, Wolf & Rush 2020).

The public names are those of `fineprune.public`, imported when the first of them is used: the command line answers
`--help` without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from .version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .public import *  # noqa: F403, the names are checked there
    from .public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__" or not name.startswith("__"):  # Python asks any module for names such as __wrapped__
            from importlib import import_module

            public = import_module(f"{__name__}.public")
            globals().update(
                {"__all__": public.__all__} | {public_name: getattr(public, public_name) for public_name in public.__all__}
            )
            if name in globals():  # packages too, fineprune.masks: importing them sets them
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__getattr__("__all__"), *globals()})

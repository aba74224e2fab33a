"""Numbers as the page writes them."""

SPACE = "\N{NO-BREAK SPACE}"


def decimal(value: float, beside: float | None = None) -> str:
    """Returns a number with as many digits as a reader needs: `0.9243`, or `79.23` and `1,234` for large ones.

    Args:
        value: the number.
        beside: the number whose digits it takes, as a standard deviation those of its mean. None: its own.
    """
    size = abs(value if beside is None else beside)
    if size < 10:
        return f"{value:.4f}"
    return f"{value:.2f}" if size < 1000 else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """Returns `3 %`, `0.15 %` or `97.6 %`: three digits at most, and a space that does not break."""
    return "–" if fraction is None else f"{100 * fraction:.3g}{SPACE}%"


def duration(seconds: float | None) -> str:
    """Returns `48 s`, `12 min` or `3.4 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

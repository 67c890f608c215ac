"""Times, ratios and comparisons in words. Nothing is said that the data does not say."""

from matplotlib.ticker import EngFormatter

from .judge import Comparison

_SECONDS = EngFormatter(unit="s", places=None)


def seconds(value: float) -> str:
    """A time with its unit, to three digits."""
    return str(EngFormatter(unit="s", places=_places(value))(value))


def _places(value: float) -> int:
    """Digits behind the point that make three in all."""
    mantissa = str(EngFormatter(unit="", places=6)(value)).split()[0].split(".", 1)[0].lstrip("-\N{MINUS SIGN}")
    return max(3 - len(mantissa), 0)


def times(ratio: float) -> str:
    """A ratio, to three digits."""
    return f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def interval(comparison: Comparison) -> str:
    """The interval of a ratio."""
    if comparison.low != comparison.low:
        return f"no interval from {comparison.processes} processes"
    return f"95 % {times(comparison.low)} to {times(comparison.high)}"


def sentence(comparison: Comparison, noise: float, *, case: str = "") -> str:
    """What two arms take, the slower one to the faster one, and whether that is a difference."""
    if comparison.ratio != comparison.ratio:
        return f"{case or comparison.case}: {comparison.arm} and {comparison.other} were not both measured."
    text = (
        f"{case or comparison.case}: {comparison.other} {seconds(comparison.other_median)}, "
        f"{comparison.arm} {seconds(comparison.median)}: {times(comparison.ratio)} times, {interval(comparison)}"
    )
    if not comparison.differs(noise):
        text += "; no difference"
    if comparison.left_out:
        text += f"; {comparison.left_out} of {comparison.rounds + comparison.left_out} rounds had no value of both"
    return text + "."

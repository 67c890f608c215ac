"""Times, ratios and comparisons in words. Nothing is said that the data does not say."""

import math

from matplotlib.ticker import EngFormatter

from .judge import Comparison, Noise

_SECONDS = EngFormatter(unit="s", places=None)


def seconds(value: float) -> str:
    """A time with its unit, to three digits."""
    if not math.isfinite(value):
        return "not measured"
    return str(EngFormatter(unit="s", places=_places(value))(value))


def _places(value: float) -> int:
    """Digits behind the point that make three in all."""
    mantissa = str(EngFormatter(unit="", places=6)(value)).split()[0].split(".", 1)[0].lstrip("-\N{MINUS SIGN}")
    return max(3 - len(mantissa), 0)


def times(ratio: float) -> str:
    """A ratio, to three digits."""
    return f"{ratio:.{max(2 - math.floor(math.log10(ratio)), 0)}f}" if 0 < ratio < math.inf else str(ratio)


def interval(comparison: Comparison) -> str:
    """The interval of a ratio."""
    if comparison.low != comparison.low:
        return f"{comparison.processes} of the 3 processes that an interval takes"
    return f"95 % {times(comparison.low)} to {times(comparison.high)}"


def sentence(comparison: Comparison, noise: Noise, *, case: str = "") -> str:
    """How long one arm takes, beside another one, and whether that is a difference."""
    found = comparison
    if math.isnan(found.ratio):
        return f"{case or found.case}: {found.arm} and {found.other} were not both measured."
    text = (
        f"{case or found.case}: {found.arm} takes {times(found.ratio)} times as long as {found.other}, "
        f"{interval(found)} (medians {seconds(found.median)} and {seconds(found.other_median)})"
    )
    relation = found.relation(noise)
    if relation != "differs":
        text += f": {relation}"
    if relation == "differs" and (found.median - found.other_median) * math.log(found.ratio) < 0:
        text += "; the medians of all values say otherwise, since the processes differ"
    if found.left_out:
        text += f"; {found.left_out} of {found.rounds + found.left_out} rounds had no value of both"
    return text + "."

"""The figures of a report, each with one sentence of what it shows."""

from collections.abc import Iterator
from dataclasses import dataclass

from _figures_cost import ending_cost, stalls
from _figures_ending import latency, stall_throughput, time_against_regions
from _figures_modes import time_against_pages
from _figures_scale import placed_faults, shared_restores, threads_waited_and_burnt, what_else_there_is
from _figures_serving import fault_ratios, fill_bandwidth, restore_times
from _plotting import Drawn
from _results import Results

_ALL = (
    ("ending", "Time of the ending against regions", time_against_regions),
    ("modes", "Time of the ending against resident pages, by mode", time_against_pages),
    ("cost", "Time of the ending against unrelated VMAs and waiting threads", ending_cost),
    ("stalls", "The longest stall around the ending", stalls),
    ("latency", "Latency of accesses and bystanders around the ending", latency),
    ("throughput", "Throughput through the ending", stall_throughput),
    ("fault", "One fault against the floor, by placement", fault_ratios),
    ("placed", "One fault of a free thread, by placement", placed_faults),
    ("threads", "Time waited and CPU time burnt, against threads", threads_waited_and_burnt),
    ("share", "One image for many targets", shared_restores),
    ("instead", "What would be taken instead", what_else_there_is),
    ("fill", "Fill bandwidth against bulk COPY and memcpy", fill_bandwidth),
    ("restore", "Restoring a real program's memory", restore_times),
)


@dataclass(frozen=True)
class Shown:
    """A figure under its title; the name is that of its file."""

    name: str
    title: str
    drawn: Drawn


def figures(results: Results) -> Iterator[Shown]:
    """Draw those whose benchmarks were all measured."""
    for name, title, draw in _ALL:
        drawn = draw(results)
        if drawn is not None:
            yield Shown(name, title, drawn)

"""How busy the machine was while a process measured, and how fast its CPUs ran."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")
_FREQUENCIES = "devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"
_CPU_TIMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True)
class Business:
    """Of the time between two looks; for JSON by ``as_dict()``.

    Attributes:
        seconds: Between the looks.
        steal: The share of CPU time that the host gave to others.
        others: How many CPUs ran something that was neither this process nor a child that it has waited for.
        pressure: The share of the time in which some task waited for a CPU; None where the kernel does not tell.
        load: The load average of the last minute.
        mhz: The mean frequency of the CPUs; None where the system does not tell.
    """

    seconds: float
    steal: float
    others: float
    pressure: float | None
    load: float
    mhz: float | None

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return asdict(self)


class Watch:
    """From now on."""

    def __init__(self) -> None:
        self._ticks = _ticks()
        self._waited = _waited_us()
        self._own = _own_seconds()
        self._began = os.times().elapsed

    def business(self) -> Business:
        """Until now."""
        ticks = {name: now - self._ticks[name] for name, now in _ticks().items()}
        elapsed = max(os.times().elapsed - self._began, 1e-9)
        idle = ticks["idle"] + ticks["iowait"]
        busy = (sum(ticks.values()) - idle - ticks["steal"]) / os.sysconf("SC_CLK_TCK")
        waited = _waited_us()
        return Business(
            seconds=elapsed,
            steal=ticks["steal"] / max(sum(ticks.values()), 1),
            others=max(busy - (_own_seconds() - self._own), 0.0) / elapsed,
            pressure=None if waited is None or self._waited is None else (waited - self._waited) * 1e-6 / elapsed,
            load=os.getloadavg()[0],
            mhz=_mhz(),
        )


def _ticks() -> dict[str, int]:
    line = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return dict(zip(_CPU_TIMES, map(int, line[1:]), strict=False))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _waited_us() -> int | None:
    try:
        some = _PRESSURE.read_text().split("\n", 1)[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2])


def _mhz() -> float | None:
    found = [int(path.read_text()) / 1000 for path in Path("/sys").glob(_FREQUENCIES)]
    if not found:
        found = [
            float(line.split(":")[1])
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("cpu MHz")
        ]
    return sum(found) / len(found) if found else None

"""What it costs to wake a thread on an idle CPU: most of a fault's time on a quiet machine."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pyuffd import _core
from pyuffd._circumstances import text_of, user_name

_DEVICE = "/dev/cpu_dma_latency"
_CPUIDLE = Path("/sys/devices/system/cpu/cpuidle")
_GUEST_HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
_WORTH_NS = 5_000  # a faster wake-up needs no advice


@dataclass(frozen=True)
class WakeUp:
    """What a wake-up costs here, measured by two threads that wake each other.

    Attributes:
        idle_ns: Nanoseconds to wake a thread on an idle CPU; None where this process may not use two CPUs.
        awake_ns: The same while ``/dev/cpu_dma_latency`` is requested to be 0; None where this user may not write it.
        refused: The errno with which the device was refused; 0 where it was not.
        cpuidle: The driver and the governor of idle CPUs, such as ``"haltpoll, haltpoll"``; empty where /sys does not
            tell.
        halt_poll_ns: How long a guest polls before it halts, in nanoseconds; None where no haltpoll driver is loaded.
        user: The name of the user, or the number of one without a name.
    """

    idle_ns: int | None
    awake_ns: int | None
    refused: int
    cpuidle: str
    halt_poll_ns: int | None
    user: str

    def __str__(self) -> str:
        if self.idle_ns is None:
            return "not measured: this process may not use two CPUs"
        driver = f" (cpuidle: {self.cpuidle})" if self.cpuidle else ""
        return f"{_microseconds(self.idle_ns)}{driver}"

    @property
    def awake(self) -> str:
        """What it costs while CPUs are kept awake, or why that is not known."""
        if self.awake_ns is not None:
            return f"{_microseconds(self.awake_ns)}; placement 'auto' keeps CPUs awake in bursts of faults"
        return f"{_DEVICE} is refused: {os.strerror(self.refused)}" if self.refused else "not measured"

    @property
    def advice(self) -> tuple[str, ...]:
        """Commands that make faults faster on a quiet machine, each with what it saves at most."""
        if self.idle_ns is None or self.idle_ns < _WORTH_NS or self.awake_ns is not None:
            return ()
        saves = f"saves up to {_microseconds(2 * self.idle_ns)} a fault"
        found = [f"setfacl -m u:{self.user}:w {_DEVICE}  ({saves}, in bursts)"] if self.refused else []
        if self.halt_poll_ns == 0:
            found.append(f"echo 200000 > {_GUEST_HALT_POLL}  ({saves}; costs CPU time of the host)")
        found.append(f"placement='adopt'  ({saves}; binds the faulting threads to one CPU)")
        return tuple(found)


@cache
def wake_up() -> WakeUp:
    """Measure it, once in this process; takes some milliseconds."""
    idle_ns, awake_ns, refused = _core.wake_ups()
    return WakeUp(idle_ns, awake_ns, refused, _cpuidle(), _number(_GUEST_HALT_POLL), user_name())


def _microseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e3:.3g} us"


def _cpuidle() -> str:
    names = [text_of(_CPUIDLE / name).strip() for name in ("current_driver", "current_governor_ro")]
    return ", ".join(name for name in names if name and name != "none")


def _number(path: Path) -> int | None:
    text = text_of(path).strip()
    return int(text) if text.isdigit() else None

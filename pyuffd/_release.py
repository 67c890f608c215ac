"""The release generation of the running kernel, and how it was found."""

from dataclasses import dataclass

from pyuffd import _core

# How long the experiment counts lost wake-ups of UNREGISTER. A kernel that loses some can lose none in this time.
_LOST_WAKE_SECONDS = 2.0

_EARLY_CLOSE = {
    "sigbus": "not safe: a fault that meets it gets SIGBUS",
    "nopage": "safe for faults; a GUP user of the target (KVM, mlock, O_DIRECT) livelocks with it",
    "retry": "safe",
}


@dataclass(frozen=True)
class LostWakes:
    """How often UNREGISTER left a thread asleep (docs/explanation/unregister-lost-wake.md).

    Attributes:
        rounds: The number of times that memory was registered and unregistered while threads read it.
        lost: The number of rounds that left a thread asleep. 0 does not prove that the kernel loses no wake-ups.
    """

    rounds: int
    lost: int


@dataclass(frozen=True)
class Release:
    """What the kernel does when a fault meets a released userfaultfd (docs/explanation/letting-go.md).

    Attributes:
        generation: ``"sigbus"`` (before Linux 4.14), ``"nopage"`` (from commit 656710a60e36 on) or ``"retry"`` (from
            commit fe4cdc2c4e24 on: Linux 6.15 and stable backports).
        found_by: ``"experiment"``, or ``"version"`` if only the kernel's version decided.
        reason: Why the experiment could not decide. Empty if the experiment decided, or was not run now.
        rounds: The number of rounds of the experiment. All of them had the same result.
        minor_faults: The largest number of minor faults, in one round, of the thread whose fault met the released
            userfaultfd. With nopage it is thousands, because the thread spins (the experiment can decide only on Linux
            6.6 and newer). With retry it is one or two.
        lost_wakes: The lost wake-ups of UNREGISTER without WAKE. None if they were not counted.
    """

    generation: str
    found_by: str
    reason: str = ""
    rounds: int = 0
    minor_faults: int = 0
    lost_wakes: LostWakes | None = None

    @property
    def early_close(self) -> str:
        """Whether an early close is safe on this kernel, in a few words."""
        return _EARLY_CLOSE[self.generation]

    @property
    def lost_wakes_text(self) -> str:
        """Whether UNREGISTER lost wake-ups, in a few words."""
        if self.lost_wakes is None:
            return "not counted ('pyuffd probe --fresh' does, where it can)"
        if self.lost_wakes.lost:
            return f"loses wake-ups: {self.lost_wakes.lost:,} in {self.lost_wakes.rounds:,} rounds"
        return f"no wake-up lost in {self.lost_wakes.rounds:,} rounds, which is no proof"

    def __str__(self) -> str:
        if self.found_by == "experiment":
            return (
                f"{self.generation} (by experiment: {self.rounds} of {self.rounds} rounds; "
                f"at most {self.minor_faults} minor faults in one)"
            )
        return f"{self.generation} (by version{': ' + self.reason if self.reason else ''})"


def known_release() -> Release:
    """Return the result of an experiment of this boot, or what the kernel's version says if there is no result."""
    known = _core.release()
    return Release(
        generation=known["generation"],
        found_by="experiment" if known["by_experiment"] else "version",
        rounds=known["rounds"],
        minor_faults=known["minor_faults"],
        lost_wakes=_lost_wakes(known["lost_wakes"]),
    )


def find_release() -> Release:
    """Find the release generation by experiment, which takes a few seconds in child processes.

    If the experiment decides, the result is kept for this boot.
    """
    found = _core.release_experiment(_LOST_WAKE_SECONDS)
    generation = found["generation"]
    return Release(
        generation=generation or _core.release_by_version(),
        found_by="experiment" if generation else "version",
        reason=found["reason"],
        rounds=found["rounds"],
        minor_faults=found["minor_faults"],
        lost_wakes=_lost_wakes(found["lost_wakes"]),
    )


def _lost_wakes(counted: tuple[int, int] | None) -> LostWakes | None:
    return LostWakes(*counted) if counted else None

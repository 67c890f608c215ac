"""What the running kernel does when a manager lets go, and how that is known."""

from dataclasses import dataclass

from pyuffd import _core

# How long UNREGISTER is watched for lost wake-ups. A kernel that loses some may lose none in that time.
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
        rounds: How many times memory was registered and unregistered under threads that read it.
        lost: Rounds that left a thread asleep. None is no proof that it cannot happen.
    """

    rounds: int
    lost: int


@dataclass(frozen=True)
class Release:
    """What the kernel does when a fault meets a released userfaultfd (docs/explanation/letting-go.md).

    Attributes:
        generation: ``"sigbus"`` (before Linux 4.14), ``"nopage"`` (since commit 656710a60e36) or ``"retry"`` (since
            commit fe4cdc2c4e24, Linux 6.15 and stable backports).
        found_by: ``"experiment"``, or ``"version"`` where only the table of versions tells.
        reason: Why the experiment could not decide, if it was tried now and could not.
        rounds: Of the experiment, all of which agreed.
        minor_faults: The most that a thread which met the released userfaultfd took in one round: thousands with
            nopage (the experiment decides only since Linux 6.6, where it spins), one or two with retry.
        lost_wakes: Of UNREGISTER without WAKE; None where they were not counted.
    """

    generation: str
    found_by: str
    reason: str = ""
    rounds: int = 0
    minor_faults: int = 0
    lost_wakes: LostWakes | None = None

    @property
    def early_close(self) -> str:
        """What it means for an early close, in a few words."""
        return _EARLY_CLOSE[self.generation]

    @property
    def lost_wakes_text(self) -> str:
        """What was seen of UNREGISTER, in a few words."""
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
    """Tell what an experiment of this boot found, else the table of versions."""
    known = _core.release()
    return Release(
        generation=known["generation"],
        found_by="experiment" if known["by_experiment"] else "version",
        rounds=known["rounds"],
        minor_faults=known["minor_faults"],
        lost_wakes=_lost_wakes(known["lost_wakes"]),
    )


def find_release() -> Release:
    """Find it out by experiment: a few seconds in child processes; kept for this boot if it decided."""
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

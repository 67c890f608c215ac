"""What an experiment's records say in a few words, and how serious that is."""

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

Record = dict[str, Any]


class Severity(IntEnum):
    """How a kernel treats those who meet a release."""

    CLEAN = 0
    SPINS = 1
    ERROR = 2
    ASLEEP = 3
    SIGBUS = 4
    HANGS = 5
    NOTHING = 6


@dataclass(frozen=True)
class Verdict:
    """A cell of the table."""

    severity: Severity
    text: str


# Titles, by the experiments' names.
RELEASES = {
    "release": "a fault meets a released userfaultfd",
    "probe": "what pyuffd probe finds",
    "complete": "last COPY, then close at once, under readers",
    "missing": "close with pages missing, under readers",
    "missing-thp": "the same under writers of huge pages",
    "gup-populate": "close under MADV_POPULATE_WRITE",
    "gup-mlock": "close under mlock",
    "gup-readv": "close under process_vm_readv",
}
WAKES = {
    "unregister": "UNREGISTER alone, under readers",
    "unregister-and-wake": "UNREGISTER and WAKE, under readers",
    "close": "close alone, under readers",
    "left-missing": "UNREGISTER of a waiting thread, missing",
    "left-missing-wp": "UNREGISTER meanwhile touched, missing and write-protect",
    "left-wp": "UNREGISTER of a waiting thread, write-protect",
    "left-minor": "UNREGISTER of a waiting thread, minor",
}


def verdict(experiment: str, records: Sequence[Record]) -> Verdict:
    """Judge the records of one experiment on one kernel."""
    if not records:
        return Verdict(Severity.NOTHING, "no result")
    ends = Counter(record["end"] for record in records)
    if ends["hung"]:
        return Verdict(Severity.HANGS, "hangs" if len(records) == 1 else f"hangs {ends['hung']} of {len(records)}")
    if any(record.get("signal") == signal.SIGBUS for record in records):
        return Verdict(Severity.SIGBUS, "killed by SIGBUS")
    failed = [record for record in records if "message" in record or record["end"] != "exited"]
    if failed:
        return Verdict(Severity.NOTHING, failed[0].get("message", "died"))
    if experiment == "release":
        return _released(records)
    (record,) = records
    if experiment == "probe":
        return _probed(record)
    if experiment.startswith("gup-") and not record["error"] and record["close_ns"] < record["call_ns"] / 2:
        return Verdict(Severity.NOTHING, "did not meet")
    if experiment.startswith("gup-"):
        return Verdict(Severity.ERROR, record["error"]) if record["error"] else Verdict(Severity.CLEAN, "clean")
    if experiment.startswith("left-"):
        return _left(record)
    return _raced(record) if "closes" in record else _waked(record)


def _released(records: Sequence[Record]) -> Verdict:
    faults = Counter(record["fault"] for record in records)
    of = f"of {len(records)}"
    if faults["sigbus"]:
        return Verdict(Severity.SIGBUS, f"SIGBUS {faults['sigbus']} {of}")
    if faults["spun"]:
        most = max(record["minor_faults"] for record in records)
        return Verdict(Severity.SPINS, f"spins {faults['spun']} {of}, up to {most:,} faults")
    if faults["slept"]:
        return Verdict(Severity.CLEAN, f"sleeps {faults['slept']} {of}")
    return Verdict(Severity.NOTHING, records[-1]["why"])


def _probed(record: Record) -> Verdict:
    if record["generation"] == "unknown":
        return Verdict(Severity.NOTHING, f"unknown: {record['reason']}")
    severity = {"sigbus": Severity.SIGBUS, "nopage": Severity.SPINS, "retry": Severity.CLEAN}[record["generation"]]
    return Verdict(severity, f"{record['generation']}, {record['rounds']} of {record['rounds']} rounds")


def _raced(record: Record) -> Verdict:
    of = f"of {record['closes']:,} closes"
    if record["lost"]:
        return Verdict(Severity.ASLEEP, f"{record['lost']} threads lost")
    if record["sigbus"]:
        return Verdict(Severity.SIGBUS, f"{record['sigbus']:,} SIGBUS in {record['closes']:,} closes")
    if record["wrong"]:
        return Verdict(Severity.ERROR, f"{record['wrong']:,} wrong pages in {record['closes']:,} closes")
    return Verdict(Severity.CLEAN, f"clean, {record['raced']:,} {of} raced")


def _waked(record: Record) -> Verdict:
    if record["lost"]:
        return Verdict(Severity.ASLEEP, f"{record['lost']:,} of {record['rounds']:,} rounds left one asleep")
    return Verdict(Severity.CLEAN, f"clean, {record['rounds']:,} rounds")


def _left(record: Record) -> Verdict:
    if record["asleep"]:
        return Verdict(Severity.ASLEEP, f"{record['asleep']} of {record['rounds']} left asleep")
    return Verdict(Severity.CLEAN, f"woken, {record['rounds']} of {record['rounds']}")

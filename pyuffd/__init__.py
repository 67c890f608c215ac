"""Manage Linux page faults with userfaultfd, by threads of C++.

A manager installs the memory of this process, or of another one, page by page when threads touch it. When no page is
missing, the manager lets go of the memory: by an early close if this is safe. An early close is safe for threads from
Linux 4.14 on (kernel commit 656710a60e36). It is also safe for accesses by the kernel from Linux 6.15 and its stable
backports on (commit fe4cdc2c4e24).
"""

try:
    from pyuffd import _core as _core
except ImportError as error:  # the source tree without a build, or with the build of another Python
    raise ImportError(
        f"pyuffd's extension module cannot be imported ({error}): build it with 'pip install .' "
        "in the source tree, or with 'pip install -e .' to work on pyuffd"
    ) from error

from pyuffd import handoff
from pyuffd._core import (
    CallableSource,
    Fault,
    FileSource,
    Mapping,
    MemorySource,
    MissingPagesError,
    Region,
    RemapEvent,
    RemoveEvent,
    Source,
    UnknownEvent,
    UnmapEvent,
    UnsupportedError,
    Userfaultfd,
    ZeroSource,
)
from pyuffd._ending_report import EndingReport
from pyuffd._flags import FaultFlag, Feature, RegisterMode
from pyuffd._inline import touch
from pyuffd._lazy import lazy_array, target_of
from pyuffd._manager import Manager, Placement, serve
from pyuffd._memory_kinds import MemoryKind
from pyuffd._obstacles import Obstacle
from pyuffd._options import Beyond, Ending, Guard, Install, Present, ServeOptions
from pyuffd._probe import Probe, probe
from pyuffd._release import LostWakes, Release
from pyuffd._shared_image import SharedImage
from pyuffd._sigterm import OnSigterm, on_sigterm
from pyuffd._source_error import SourceError
from pyuffd._stats import Stats
from pyuffd._take_over import give_up, guard_path, take_over
from pyuffd._target import Missing, Target
from pyuffd._version import __version__
from pyuffd._wake_up import WakeUp
from pyuffd.handoff import Mode, OnRemove

__all__ = [
    "Beyond",
    "CallableSource",
    "Ending",
    "EndingReport",
    "Fault",
    "FaultFlag",
    "Feature",
    "FileSource",
    "Guard",
    "Install",
    "LostWakes",
    "Manager",
    "Mapping",
    "MemoryKind",
    "MemorySource",
    "Missing",
    "MissingPagesError",
    "Mode",
    "Obstacle",
    "OnRemove",
    "OnSigterm",
    "Placement",
    "Present",
    "Probe",
    "Region",
    "RegisterMode",
    "Release",
    "RemapEvent",
    "RemoveEvent",
    "ServeOptions",
    "SharedImage",
    "Source",
    "SourceError",
    "Stats",
    "Target",
    "UnknownEvent",
    "UnmapEvent",
    "UnsupportedError",
    "Userfaultfd",
    "WakeUp",
    "ZeroSource",
    "__version__",
    "give_up",
    "guard_path",
    "handoff",
    "lazy_array",
    "on_sigterm",
    "probe",
    "serve",
    "take_over",
    "target_of",
    "touch",
]

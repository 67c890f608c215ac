"""Facts about this process and its system that decide whether the process may open a userfaultfd."""

import os
import pwd
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/dev/userfaultfd")

_UID_MAP = Path("/proc/self/uid_map")
_SECCOMP_FILTER = "2"
_ALL_IDS = ["0", "0", "4294967295"]


@dataclass(frozen=True)
class Circumstances:
    """Facts about this process and its system.

    Attributes:
        user: The name of the user, or the number of a user without a name.
        python: The path of the interpreter's file. Capabilities can be given to this file.
        kernel_has_device: Whether the kernel has ``/dev/userfaultfd`` (Linux 6.1), also if this process cannot see it.
        device_mode_permits: Whether the owner and the mode of the device let this user read and write it.
        in_user_namespace: Whether this process is in a user namespace other than the initial one.
        seccomp_filter: Whether a seccomp filter checks the system calls of this process.
        selinux_enforces: Whether SELinux enforces its policy.
    """

    user: str
    python: str
    kernel_has_device: bool
    device_mode_permits: bool
    in_user_namespace: bool
    seccomp_filter: bool
    selinux_enforces: bool


def circumstances() -> Circumstances:
    """Read the facts from /proc and /sys. A fact that cannot be read is False."""
    status = dict(line.partition(":")[::2] for line in text_of("/proc/self/status").splitlines())
    return Circumstances(
        user=user_name(),
        python=os.path.realpath(sys.executable) if sys.executable else "python3",
        kernel_has_device=DEVICE.exists() or "userfaultfd" in text_of("/proc/misc").split(),
        device_mode_permits=_mode_permits(),
        in_user_namespace=_UID_MAP.exists() and text_of(_UID_MAP).split() != _ALL_IDS,
        seccomp_filter=status.get("Seccomp", "").strip() == _SECCOMP_FILTER,
        selinux_enforces=text_of("/sys/fs/selinux/enforce").strip() == "1",
    )


def text_of(path: str | Path) -> str:
    """The text of a file of the system; empty where it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def user_name() -> str:
    """The name of the user, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _mode_permits() -> bool:
    try:
        status = DEVICE.stat()
    except OSError:
        return False
    if os.geteuid() == 0:
        return True
    both = stat.S_IROTH | stat.S_IWOTH
    if os.geteuid() == status.st_uid:
        return status.st_mode >> 6 & both == both
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return status.st_mode >> 3 & both == both
    return status.st_mode & both == both

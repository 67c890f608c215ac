"""What a daemon tells systemd (sd_notify(3)), if systemd started it."""

import os
import socket


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1``. Without systemd, or if it does not listen, this does nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
            sock.send("\n".join(lines).encode())
        except OSError:
            pass


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear ``WATCHDOG=1``; None if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or meant != str(os.getpid()):
        return None
    return int(microseconds) * 1e-6 / 2

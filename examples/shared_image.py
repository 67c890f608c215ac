"""How do several processes share one image in memory?

    python examples/shared_image.py

Four targets map one SharedImage. Its pages are read once and mapped into each target without a
copy. What a target writes stays its own.
"""

import mmap
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import pyuffd

LENGTH, TARGETS = 8 << 20, 4


def target(connection: socket.socket) -> None:
    """Map the image, hand the mapping over, write to one page, and read all."""
    _, (fd, *_), _, _ = socket.recv_fds(connection, 16, 1)
    memory = mmap.mmap(fd, LENGTH, flags=mmap.MAP_PRIVATE)
    array = np.frombuffer(memory, np.uint8)
    uffd = pyuffd.Userfaultfd()
    pyuffd.handoff.send(connection, uffd, [(array.ctypes.data, LENGTH, 0, mmap.PAGESIZE)], mode="missing+minor")
    memory[0] = 77
    total = int(array.sum())
    of_mapping = Path("/proc/self/smaps").read_text().partition(f"{array.ctypes.data:x}-")[2].split()
    own = of_mapping[of_mapping.index("Anonymous:") + 1]
    print(f"target: first byte {memory[0]}, sum {total}, {own} of {LENGTH >> 10} KiB are its own", flush=True)


def main() -> None:
    """Serve all of them with one manager."""
    with tempfile.TemporaryDirectory() as folder, pyuffd.Manager(handlers=1) as manager:
        path = Path(folder) / "image.bin"
        path.write_bytes(bytes(range(256)) * (LENGTH // 256))
        image = pyuffd.SharedImage(pyuffd.FileSource(str(path)))
        processes = []
        for _ in range(TARGETS):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                command = [sys.executable, __file__, str(theirs.fileno())]
                processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
                socket.send_fds(ours, [b"image"], [image.fileno()])
                got = pyuffd.handoff.receive(ours, image, mode="missing+minor")
            manager.add(got.uffd, got.regions, pid=got.pid)
        if any(process.wait() for process in processes):
            raise SystemExit("a target failed")


if __name__ == "__main__":
    target(socket.socket(fileno=int(sys.argv[1]))) if len(sys.argv) > 1 else main()

"""How do I serve many virtual machines that are restored from one snapshot?

    python examples/snapshot_manager.py SOCKET MEMORY_FILE [CONNECTIONS]

A manager for Firecracker: give PUT /snapshot/load "backend_type": "Uffd" and the path of the
socket. Every connection hands one guest's memory over, and one set of threads serves all of them.
Logging tells when a guest is added and when it is let go.
"""

import logging
import os
import socket
import sys
from pathlib import Path

import pyuffd


def serve(path: str, memory_file: str, connections: int) -> None:
    """Serve so many guests, and wait until all are complete."""
    source = pyuffd.FileSource(memory_file)
    targets: list[pyuffd.Target] = []
    with socket.socket(socket.AF_UNIX) as listener, pyuffd.Manager(handlers=2, fillers=1) as manager:
        before = os.umask(0o077)  # who may connect gets what is in the file
        listener.bind(path)
        os.umask(before)
        listener.listen()
        while len(targets) < connections:
            connection, _ = listener.accept()
            with connection:
                try:
                    got = pyuffd.handoff.receive(connection, source)
                    target = manager.add(got.uffd, got.regions, pid=got.pid)
                except (ValueError, OSError) as error:  # one guest's mistake is not the others'
                    logging.warning("refused: %s", error)
                    continue
            target.fill()
            targets.append(target)
        for target in targets:
            target.wait()
            print(f"{target}: {target.close().ending}, {target.stats().faults} faults")


def main() -> None:
    """Read the arguments."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    path, memory_file = sys.argv[1:3]
    Path(path).unlink(missing_ok=True)
    serve(path, memory_file, int(sys.argv[3]) if len(sys.argv) == 4 else sys.maxsize)


if __name__ == "__main__":
    main()

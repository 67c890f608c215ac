"""How do I load the memory of another process?

    python examples/hand_off.py

The target is a process of its own. It maps empty memory, hands it over, and reads it. This process
is the manager: it loads each page on its first touch, the rest in the background, and then lets go
of the memory.
"""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pyuffd

LENGTH = 8 << 20


def target(path: str) -> None:
    """Hand memory over, and read it from its end to its beginning."""
    memory = pyuffd.Mapping(LENGTH)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        region = (memory.address, memory.length, 0, memory.page_size)  # bytes from offset 0 of the image on
        pyuffd.handoff.send(connection, pyuffd.Userfaultfd(), [region])
    print(f"target: the sum of all bytes is {int(memory.array[::-1].sum(dtype='u8'))}", flush=True)


def main() -> None:
    """Be the manager of one target."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        image, path = Path(folder) / "image.bin", str(Path(folder) / "manager.sock")
        image.write_bytes(bytes(range(256)) * (LENGTH // 256))
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen([sys.executable, __file__, path])
        connection, _ = listener.accept()
        with connection:
            got = pyuffd.handoff.receive(connection, pyuffd.FileSource(str(image)))
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as served:
            served.fill()
            served.wait()
            print(f"manager: {served.stats().faults} faults, {served.stats().pages} pages")
        report = served.close()
        print(f"manager: let go by {report.ending}, since {report.reason}")
        if process.wait() != 0:
            raise SystemExit("the target failed")


if __name__ == "__main__":
    target(sys.argv[1]) if len(sys.argv) > 1 else main()

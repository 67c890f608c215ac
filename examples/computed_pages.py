"""How do I supply pages from Python: decompressed, downloaded, computed?

    python examples/computed_pages.py

The image is a list of compressed blocks. A Python function gives the bytes that are asked for. It
serves another process: in its own process the thread that touches a page would hold the GIL that
the function needs.
"""

import socket
import subprocess
import sys
import zlib

import pyuffd

BLOCK, BLOCKS = 64 << 10, 32
PLAIN = [bytes([number]) * BLOCK for number in range(BLOCKS)]
COMPRESSED = [zlib.compress(block) for block in PLAIN]


def read(offset: int, length: int) -> bytes:
    """Give bytes of the image. Called by threads of the manager, up to four at a time."""
    first, last = offset // BLOCK, (offset + length - 1) // BLOCK
    plain = b"".join(zlib.decompress(COMPRESSED[number]) for number in range(first, last + 1))
    return plain[offset - first * BLOCK :][:length]


def target(connection: socket.socket) -> None:
    """Hand memory over, and read a byte of every second block."""
    memory = pyuffd.Mapping(BLOCK * BLOCKS)
    pyuffd.handoff.send(connection, pyuffd.Userfaultfd(), [(memory.address, memory.length, 0, memory.page_size)])
    print(memory.array[:: 2 * BLOCK].tolist(), flush=True)


def main() -> None:
    """Serve a process that reads half of the blocks."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        source = pyuffd.CallableSource(read, BLOCK * BLOCKS, deadline=10)  # seconds; a later page is poisoned
        got = pyuffd.handoff.receive(ours, source)
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as served:
        failed = process.wait()
        print(f"{served.stats().fetches} calls supplied {served.stats().pages} of {served.pages} pages")
        served.close(missing="zero")  # the target is gone
    if failed:
        raise SystemExit("the target failed")


if __name__ == "__main__":
    target(socket.socket(fileno=int(sys.argv[1]))) if len(sys.argv) > 1 else main()

"""The names of the ways that are compared: one name means the same way in every question, figure and goal."""

# Of fault, threads, instead, default.
LOOP = "poll loop, one page a fault"
FLOOR = "floor on one CPU"
POOL = "poll loop and a pool of threads"
UNPRIVILEGED = "auto, unprivileged"
WAKE_UP = "a wake-up"
BARE_SIGBUS = "COPY in a bare SIGBUS handler"
LEARNED = "auto, learned walk"
WALK = "pyuffd, learned walk"
NATIVE = "first touch, unmanaged"

# Of guard.
GUARDED = "guarded"
UNGUARDED = "unguarded"
TAKEN_OVER = "taken over"

# Of criu.
SERVE_CRIU = "pyuffd serve criu"
CRIU_LAZY_PAGES = "criu lazy-pages"
LAZY_LOOP = "loop, chunks of 64 KiB"
COPY_OVER_SOCKET = "sendfile and recv"

# Of fill.
MEMCPY = "memcpy"

# Of share.
IMAGE = "SharedImage"
ARRIVING = "SharedImage, arriving"
COPIES = "a copy each"
MAPPINGS = "plain mappings"

# Of cold.
DEVICE = "device"
READ = "read()"
MAPPED = "fill through the page cache"
DIRECT = "fill past the page cache"
MOVE = "reads and MOVE"

# Of fairness.
ONE_HANDLER = "one handler"
HANDLER_EACH = "a handler each"


def many(count: int, what: str) -> str:
    """Say how many there are of something, in the singular for one of it."""
    return f"{count} {what}{'s' * (count != 1)}"


def bare(ending: str) -> str:
    """Name the loop of system calls alone."""
    return f"{ending}, bare"


def filler(count: int) -> str:
    """Name the manager's fill."""
    return f"fill, {many(count, 'filler')}"


def bulk_copy(threads: int) -> str:
    """Name the bare loop of UFFDIO_COPY."""
    return f"bulk COPY, {many(threads, 'thread')}"


def by_continue(chunk: int) -> str:
    """Name the bare loop of UFFDIO_CONTINUE."""
    return f"CONTINUE of {chunk}"


def read_by(threads: int) -> str:
    """Name the read into fresh memory."""
    return f"read(), {many(threads, 'thread')}"


def filled_by(fillers: int) -> str:
    """Name the restore."""
    return f"early-close, {many(fillers, 'filler')}"

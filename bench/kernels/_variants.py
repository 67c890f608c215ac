"""The kernels that are built: which source each is made from, and in what it differs from that."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# The branch of handle_userfault that a fault takes on a released userfaultfd, in a kernel that has commit fe4cdc2c4e24.
_BRANCH = re.compile(
    r"(?P<before>if \(unlikely\(READ_ONCE\(ctx->released\)\)\) \{\s*(?:/\*.*?\*/\s*)?)"
    r"release_fault_lock\(vmf\);"
    r"(?P<after>\s*goto out;)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Variant:
    """A kernel.

    Attributes:
        name: Of the kernel in results and on the command line.
        series: Of Debian's source package.
        statement: What stands in that branch; as shipped where empty.
        patches: The files of the folder ``patches`` that are applied, in order.
        parts: Of the laboratory's experiments.
    """

    name: str
    series: str = "6.12"
    statement: str = ""
    patches: Sequence[str] = ()
    parts: Sequence[str] = ("release", "wake")


_LOCK, _ALL = "1-lock-before-wake.patch", "2-wake-all-waiters.patch"

VARIANTS = {
    variant.name: variant
    for variant in (
        # The lock is kept with the first two: whoever called drops it then.
        Variant("sigbus", statement="ret = VM_FAULT_SIGBUS;"),
        Variant("nopage", statement="ret = VM_FAULT_NOPAGE;"),
        Variant("retry", statement="release_fault_lock(vmf);"),
        Variant("patch-1", patches=(_LOCK,), parts=("wake",)),
        Variant("patches-1-2", patches=(_LOCK, _ALL), parts=("wake",)),
        Variant("before-6.6", series="6.1", parts=("wake",)),
    )
}


class EditFailedError(Exception):
    """The kernel's source is not as expected."""


def edited(source: str, variant: Variant) -> str:
    """Change the text of fs/userfaultfd.c as shipped into that of a variant, but for its patches.

    Raises:
        EditFailedError: The statement is not there exactly once.
    """
    if not variant.statement:
        return source
    found = len(_BRANCH.findall(source))
    if found != 1:
        raise EditFailedError(
            f"fs/userfaultfd.c has the branch of a released userfaultfd {found} times where once is expected: this "
            "kernel's source has changed, so no generation can be made from it; "
            "'python -m bench.kernels --only host' still runs the experiments on this kernel"
        )
    return _BRANCH.sub(lambda match: match["before"] + variant.statement + match["after"], source)

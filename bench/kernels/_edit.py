"""The one statement in which the generations differ."""

import re

# The branch of handle_userfault that a fault takes on a released userfaultfd, in a kernel that has commit fe4cdc2c4e24.
_BRANCH = re.compile(
    r"(?P<before>if \(unlikely\(READ_ONCE\(ctx->released\)\)\) \{\s*(?:/\*.*?\*/\s*)?)"
    r"release_fault_lock\(vmf\);"
    r"(?P<after>\s*goto out;)",
    re.DOTALL,
)

# What stands in the place of the statement. The lock is kept with both: whoever called drops it then.
_STATEMENTS = {
    "sigbus": "ret = VM_FAULT_SIGBUS;",
    "nopage": "ret = VM_FAULT_NOPAGE;",
    "retry": "release_fault_lock(vmf);",
}

GENERATIONS = tuple(_STATEMENTS)


class EditFailedError(Exception):
    """The kernel's source is not as expected."""


def edited(source: str, generation: str) -> str:
    """Change the text of fs/userfaultfd.c as shipped into that of a generation.

    Raises:
        EditFailedError: The statement is not there exactly once.
    """
    found = len(_BRANCH.findall(source))
    if found != 1:
        raise EditFailedError(
            f"fs/userfaultfd.c has the branch of a released userfaultfd {found} times where once is expected: this "
            "kernel's source has changed, so no generation can be made from it; "
            "'python -m bench.kernels --only host' still runs the experiments on this kernel"
        )
    return _BRANCH.sub(lambda match: match["before"] + _STATEMENTS[generation] + match["after"], source)

"""Gives threads their affinity masks back when a manager is killed.

A program of its own, which the engine starts with placement "adopt"; it loads the extension module alone.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location


def main(path: str, *descriptors: str) -> None:
    """Wait for the end of the manager's process."""
    spec = spec_from_file_location("pyuffd._core", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no extension module")
    core = module_from_spec(spec)
    spec.loader.exec_module(core)
    core.watch_adoptions(*map(int, descriptors))


if __name__ == "__main__":
    main(*sys.argv[1:])

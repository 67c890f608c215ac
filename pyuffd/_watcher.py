"""Gives threads their affinity masks back when a manager is killed.

This is a program of its own. The engine starts it for placement "adopt". It loads only the extension module.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location


def main(path: str, *descriptors: str) -> None:
    """Wait for the end of the manager's process, and give the masks back."""
    spec = spec_from_file_location("pyuffd._core", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not an extension module: give the path of pyuffd._core")
    core = module_from_spec(spec)
    spec.loader.exec_module(core)
    core.watch_adoptions(*map(int, descriptors))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Options that ``criu lazy-pages`` takes and has no use for: CRIU has one table of options for all its commands.

The names are those of criu/config.c, version 4.2.1. Scripts give some of them to every command.
"""

import argparse
import logging
from collections.abc import Sequence
from typing import Any

log = logging.getLogger("pyuffd.criu")

_FLAGS = """
    all allow-uprobes auto-dedup deprecated display-stats enable-external-masters enable-external-sharing
    evasive-devices experimental extra file-locks force-irmap ghost-fiemap lazy-pages leave-running leave-
    stopped link-remap log-pid mntns-compat-mode ms no-default-config restore-detached restore-sibling shell-job
    skip-file-rwx-check skip-in-flight stream tcp-close tcp-established track-mem unprivileged weak-sysctls
"""
_WITH_VALUE = """
    action-script cgroup-dump-controller cgroup-props cgroup-props-file cgroup-root cgroup-yard close config
    empty-ns enable-fs ext-mount-map external feature file-validation freeze-cgroup ghost-limit inherit-fd
    irmap-scan-path join-ns libdir lsm-mount-context lsm-profile network-lock pre-dump-mode prev-images-dir ps-
    socket root skip-mnt timeout tree veth-pair
"""
_SHORT = {"shell-job": "-j", "file-locks": "-l", "libdir": "-L"}


class _Note(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        noted = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*noted, option_string])


def add_ignored(parser: argparse.ArgumentParser) -> None:
    """Accept them. The help does not show them."""
    for names, nargs in ((_FLAGS, 0), (_WITH_VALUE, None)):
        for name in names.split():
            words = [_SHORT[name], f"--{name}"] if name in _SHORT else [f"--{name}"]
            parser.add_argument(*words, dest="ignored", action=_Note, nargs=nargs, help=argparse.SUPPRESS)


def tell_ignored(parsed: Any) -> None:
    """Tell which of them were given."""
    if parsed.ignored:
        log.info("these options have no meaning for a lazy restore, and are ignored: %s", " ".join(parsed.ignored))

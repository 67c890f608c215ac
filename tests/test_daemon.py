"""The daemon: many targets from one file; crashes, upgrades and stops are pauses at most."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from support.child import Child, become_nobody, hear, run_child, tell
from support.managers import PAGES, SEED, Memory, guards_of
from support.memory import PAGE, random_bytes
from support.puppet import Puppet
from support.state import LIMIT, until

import pyuffd
from pyuffd.daemon.loop import Loop

pytestmark = pytest.mark.requires_full_userfaultfd

COMMAND = [sys.executable, "-m", "pyuffd"]


class Daemon:
    """A daemon in a process of its own."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.socket = folder / "socket"
        self.image = folder / "image"
        if not self.image.exists():
            self.image.write_bytes(random_bytes(PAGES * PAGE, SEED))
        self._errors = (folder / f"errors-{len(list(folder.iterdir()))}").open("w+")
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "image", "--socket", str(self.socket), "--image", str(self.image), *options],
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )

    def ready(self, but: int = 0) -> "Daemon":
        """Wait until it answers; ``but`` is the pid of another one that may still answer."""
        until(lambda: self.process.poll() is not None or self.pid() not in (0, but), "the daemon's answer")
        assert self.process.poll() in (None, 0), self.errors()
        return self

    def await_next(self, pid: int) -> None:
        """Wait until another one than this answers, or the supervision has ended."""
        until(lambda: self.process.poll() is not None or self.pid() not in (0, pid), "the next daemon")

    def pid(self) -> int:
        """The pid of the daemon that answers at the socket, or 0."""
        with contextlib.suppress(Exception):
            return int(self.status()["pid"])
        return 0

    def status(self) -> dict[str, Any]:
        done = run("status", "--socket", str(self.socket), "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def hand_over(self, memory: Memory, features: int = 0) -> None:
        memory.puppet.do("hand_over", str(self.socket), memory.regions, int(features), "missing", False, True)

    def await_targets(self, count: int) -> None:
        until(lambda: len(self.status()["targets"]) == count, f"{count} targets")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._errors.close()


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.fixture
def memory(puppet: Puppet) -> Memory:
    return Memory(puppet)


def test_it_serves_and_tells(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    with Daemon(tmp_path).ready() as daemon:
        daemon.hand_over(memory)
        assert memory.states() == ["right"] * PAGES
        until(lambda: daemon.status()["ended"], "the ending")
        found = daemon.status()
        (ended,) = found["ended"]
        assert (ended["pid"], ended["pages"], ended["missing"], ended["uid"]) == (puppet.pid, PAGES, 0, os.getuid())
        assert ended["ending"]["ending"] == "early-close"
        assert not found["targets"]
        assert (daemon.socket.stat().st_mode & 0o777) == 0o600
        table = run("status", "--socket", str(daemon.socket)).stdout
        assert re.search(rf"\b{puppet.pid}\b.* ended by early-close", table)
        assert daemon.end() == 0
        assert not daemon.socket.exists()
        log = daemon.errors()
        assert f"{PAGES} pages of process {puppet.pid}" in log
        assert "ended by early-close" in log


@pytest.mark.parametrize(("on_stop", "expected"), [("fill", "right"), ("poison", "poisoned")])
def test_a_stop_does_what_it_says(memory: Memory, tmp_path: Path, on_stop: str, expected: str) -> None:
    with Daemon(tmp_path, "--no-fill", "--on-stop", on_stop).ready() as daemon:
        daemon.hand_over(memory)
        memory.touch(0, 1)
        daemon.await_targets(1)
        assert daemon.end() == 0
        assert memory.states() == ["right"] + [expected] * (PAGES - 1)


def test_what_a_stop_leaves_the_next_daemon_takes(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--on-stop", "hand-over").ready() as first:
        first.hand_over(memory)
        memory.touch(0, 1)
        first.await_targets(1)
        assert first.end() == 0
    with Daemon(tmp_path, "--take-over", str(first.process.pid)).ready() as second:
        assert memory.states() == ["right"] * PAGES
        until(lambda: second.status()["ended"], "the ending")


def test_a_stop_that_hands_over_says_to_whom(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--on-stop", "hand-over").ready() as daemon:
        daemon.hand_over(memory)
        daemon.await_targets(1)
        assert daemon.end() == 0
        pid = daemon.process.pid
        assert f"start it with --take-over {pid}" in daemon.errors()
        pyuffd.give_up(pid)
        assert memory.states() == ["poisoned"] * PAGES


def test_a_daemon_that_has_died_is_replaced(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--guard", "manager").ready() as first:
        first.hand_over(memory)
        memory.touch(0, 1)
        first.await_targets(1)
        first.end(signal.SIGKILL)
    with Daemon(tmp_path, "--guard", "manager", "--replace").ready() as second:
        assert memory.states() == ["right"] * PAGES
        assert "has died: taking its targets over" in second.errors()
        assert second.end() == 0
    assert not (tmp_path / "socket.pid").exists()


def test_what_a_dead_daemon_left_is_told(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--guard", "manager").ready() as first:
        first.hand_over(memory)
        first.await_targets(1)
        pid = first.process.pid
        first.end(signal.SIGKILL)
    with Daemon(tmp_path).ready() as second:
        assert f"process {pid}, which served here, has ended, and its guard may hold targets" in second.errors()
    pyuffd.give_up(pid)
    assert memory.states() == ["poisoned"] * PAGES


def test_targets_do_not_wait_for_ever_when_the_supervisor_is_dead_too(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--supervise", "--wait-limit", "1").ready() as daemon:
        daemon.hand_over(memory)
        memory.touch(0, 1)
        daemon.await_targets(1)
        worker = daemon.pid()
        daemon.end(signal.SIGKILL)
        until(lambda: "the supervisor has ended" in daemon.errors(), "the worker's line")
        memory.touch(PAGES // 2, 1)
        os.kill(worker, signal.SIGKILL)
        assert memory.states() == ["right" if page in (0, PAGES // 2) else "poisoned" for page in range(PAGES)]


def test_hand_offs_wait_where_descriptors_are_short(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    """A userfaultfd that found no place would be closed, and its memory would read as zeros."""
    with Daemon(tmp_path, "--no-fill").ready() as daemon:
        daemon.hand_over(memory)
        daemon.await_targets(1)
        pid = daemon.process.pid
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 40, used + 40))
        others = [Memory(puppet) for _ in range(8)]
        for other in others:
            daemon.hand_over(other)
        until(lambda: "too few descriptors are left" in daemon.errors(), "the warning")
        assert len(daemon.status()["targets"]) < 9
        for other in (memory, *others):
            assert other.states() == ["right"] * PAGES  # each ends, and makes room for the next


def test_a_killed_daemon_leaves_no_zeros(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill").ready() as daemon:
        daemon.hand_over(memory)
        memory.touch(0, 1)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        assert memory.states() == ["right"] + ["poisoned"] * (PAGES - 1)


def test_a_crash_is_a_pause(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--supervise").ready() as daemon:
        daemon.hand_over(memory)
        for page in range(3):
            memory.touch(page, 1)
            pid = daemon.pid()
            os.kill(pid, signal.SIGKILL)
            daemon.ready(but=pid)
        other = Memory(puppet)
        daemon.hand_over(other)
        assert memory.states() == other.states() == ["right"] * PAGES
        assert daemon.end() == 0
        assert not daemon.socket.exists()
        assert "ended by SIGKILL: starting another" in daemon.errors()


@pytest.mark.parametrize("which", [0, 1])
def test_a_guard_dies_with_the_daemon(memory: Memory, puppet: Puppet, tmp_path: Path, which: int) -> None:
    """A supervised daemon has two, so that it takes three deaths to lose a page."""
    with Daemon(tmp_path, "--no-fill", "--supervise").ready() as daemon:
        daemon.hand_over(memory)
        memory.touch(0, 1)
        pid = daemon.pid()
        os.kill(guards_of(pid)[which], signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        daemon.ready(but=pid)
        assert memory.states() == ["right"] * PAGES
        assert daemon.end() == 0


def test_a_daemon_that_crashes_again_and_again_is_given_up(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--supervise", "--restart-limit", "2").ready() as daemon:
        daemon.hand_over(memory)
        memory.touch(0, 1)
        daemon.await_targets(1)
        for _ in range(2):
            pid = daemon.pid()
            os.kill(pid, signal.SIGKILL)
            daemon.await_next(pid)
        assert daemon.process.wait(LIMIT) == 1
        assert memory.states() == ["right"] + ["poisoned"] * (PAGES - 1)
        assert "2 times within 60 s: giving up" in daemon.errors()


@pytest.mark.parametrize("how", ["replace", "SIGHUP", "supervised SIGHUP"])
def test_an_upgrade_is_no_pause(memory: Memory, puppet: Puppet, tmp_path: Path, how: str) -> None:
    options = ["--no-fill", "--guard", "manager"] + ["--supervise"] * how.startswith("supervised")
    with contextlib.ExitStack() as held:
        first = held.enter_context(Daemon(tmp_path, *options)).ready()
        first.hand_over(memory)
        memory.touch(0, 1)
        first.await_targets(1)
        before = first.pid()
        if how == "replace":
            held.enter_context(Daemon(tmp_path, *options, "--replace")).ready(but=before)
            assert first.process.wait(LIMIT) == 0
        else:
            first.process.send_signal(signal.SIGHUP)
            until(lambda: first.pid() not in (0, before), "the next daemon")
        after = first.pid()
        assert after not in (0, before)
        other = Memory(puppet)
        first.hand_over(other)
        assert memory.states() == other.states() == ["right"] * PAGES
        os.kill(first.process.pid if how.startswith("supervised") else after, signal.SIGTERM)
        until(lambda: not first.socket.exists(), "the end of the next daemon")


def test_an_upgrade_that_fails_changes_nothing(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--supervise").ready() as daemon:
        daemon.hand_over(memory)
        pid = daemon.pid()
        daemon.image.rename(tmp_path / "elsewhere")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "the upgrade failed" in daemon.errors(), "the failure")
        assert daemon.pid() == pid
        assert memory.states() == ["right"] * PAGES
        assert daemon.end() == 0


def test_many_targets_that_fork_and_end(puppet: Puppet, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--supervise").ready() as daemon:
        memories = [Memory(puppet) for _ in range(8)]
        for memory in memories:
            daemon.hand_over(memory, pyuffd.Feature.EVENTS)
        daemon.await_targets(8)
        with puppet.fork() as child:
            pid = daemon.pid()
            os.kill(pid, signal.SIGKILL)
            for memory in memories:
                assert memory.states(child) == ["right"] * PAGES
        for memory in memories:
            assert memory.states() == ["right"] * PAGES
        assert daemon.end() == 0


def raw(path: Path, text: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LIMIT)
        sock.connect(os.fspath(path))
        with contextlib.suppress(OSError):
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(65536)
    return b""


@pytest.mark.parametrize(
    "text",
    [b"nonsense\n", b"[]\n", b"{}\n", b'{"command": 5}\n', b'{"command": "fly"}\n', b"x" * 100_000, b"", b"[" * 5000],
)
def test_garbage_on_the_control_socket(memory: Memory, tmp_path: Path, text: bytes) -> None:
    with Daemon(tmp_path).ready() as daemon:
        answer = raw(tmp_path / "socket.control", text)
        assert answer == b"" or "error" in json.loads(answer)
        daemon.hand_over(memory)
        assert memory.states() == ["right"] * PAGES


def test_garbage_instead_of_a_hand_off(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path).ready() as daemon:
        for text in (b"nonsense", b"[]", b"", b'[{"size": 5}]'):
            raw(daemon.socket, text)
        daemon.hand_over(memory)
        assert memory.states() == ["right"] * PAGES
        until(lambda: daemon.errors().count("was refused: ") == 4, "four refusals")


def test_two_daemons_at_one_socket(tmp_path: Path) -> None:
    with Daemon(tmp_path).ready(), Daemon(tmp_path) as second:
        assert second.process.wait(LIMIT) == 1
        assert "another daemon listens at" in second.errors()


def test_a_socket_that_nobody_has_any_more_is_replaced(tmp_path: Path) -> None:
    with Daemon(tmp_path).ready() as daemon:
        daemon.end(signal.SIGKILL)
        assert daemon.socket.exists()
    with Daemon(tmp_path).ready() as next_one:
        assert next_one.end() == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--socket", "{}/file", "--image", "{}/file"], "is no socket"),
        (["--socket", "{}/no/socket", "--image", "{}/file"], "cannot listen at"),
        (["--socket", "{}/" + "x" * 200, "--image", "{}/file"], "too long"),
        (["--socket", "{}/socket", "--image", "{}/nothing"], "No such file"),
        (["--socket", "{}/socket", "--image", "{}/file", "--replace"], "no daemon listens at"),
    ],
)
def test_a_daemon_that_cannot_be_says_why(tmp_path: Path, words: Sequence[str], why: str) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    done = run("serve", "image", *(word.format(tmp_path) for word in words))
    assert done.returncode == 1
    assert why in done.stderr
    assert done.stderr.startswith("pyuffd serve image: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--handlers", "0"], ["--allow-uid", "nobody-knows-him"], ["--stop-timeout", "nan"]])
def test_options_that_are_none(tmp_path: Path, words: Sequence[str]) -> None:
    done = run("serve", "image", "--socket", str(tmp_path / "s"), "--image", str(tmp_path / "i"), *words)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_a_daemon_without_guard_for_managers_is_not_replaced(tmp_path: Path) -> None:
    with Daemon(tmp_path).ready(), Daemon(tmp_path, "--replace") as second:
        assert second.process.wait(LIMIT) == 1
        assert "start it with --guard manager" in second.errors()


def test_a_status_of_nobody(tmp_path: Path) -> None:
    done = run("status", "--socket", str(tmp_path / "socket"))
    assert done.returncode == 1
    assert "no daemon listens at" in done.stderr


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(os.fspath(tmp_path / "notify"))
        sock.settimeout(LIMIT)
        yield sock


def test_systemd_is_told(systemd: socket.socket, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with Daemon(tmp_path, environment=environment) as daemon:
        assert systemd.recv(4096).startswith(b"READY=1\nMAINPID=%d\n" % daemon.process.pid)
        assert systemd.recv(4096).startswith(b"WATCHDOG=1")
        assert daemon.end() == 0
        while not systemd.recv(4096).startswith(b"STOPPING=1"):
            pass


@pytest.mark.requires_root
@pytest.mark.requires_poison
def test_all_targets_together_have_a_limit(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill", "--max-total-bytes", str(2 * PAGES * PAGE - 1)).ready() as daemon:
        daemon.hand_over(memory)
        daemon.await_targets(1)
        refused = Memory(puppet)
        daemon.hand_over(refused)
        until(lambda: "--max-total-bytes permits" in daemon.errors(), "the refusal")
        assert refused.states() == ["poisoned"] * PAGES
        memory.touch(0, PAGES)
        until(lambda: daemon.status()["ended"], "the ending")
        third = Memory(puppet)
        daemon.hand_over(third)  # there is room again
        assert third.states() == ["right"] * PAGES


def test_strangers_are_refused(memory: Memory, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--allow-uid", "nobody").ready() as daemon:
        with contextlib.suppress(OSError):
            daemon.hand_over(memory)  # of root, who may not connect
        until(lambda: "see --allow-uid" in daemon.errors(), "the refusal")
        assert not daemon.status()["targets"]


@pytest.mark.requires_root
def test_half_messages_of_a_user_hold_up_no_other(memory: Memory, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(0o755)
    with (
        Daemon(tmp_path, "--no-fill", "--allow-uid", "nobody", "--allow-uid", "root").ready() as daemon,
        Child(_send_half_messages, daemon.socket) as child,
    ):
        assert child.hear() == "sent"
        began = time.monotonic()
        daemon.hand_over(memory)
        daemon.await_targets(1)
        assert time.monotonic() - began < 8  # a half message is awaited for 10 seconds
        assert memory.states() == ["right"] * PAGES


def _send_half_messages(path: str) -> None:
    become_nobody()
    made = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for sock in made:
        sock.connect(path)
        sock.sendall(b"[")
    tell("sent")
    hear()


@pytest.mark.parametrize("on_stop", ["fill", "poison"])
def test_a_hand_off_that_comes_with_the_stop(memory: Memory, tmp_path: Path, on_stop: str) -> None:
    """The sender was told that it is sent: its memory does not read as zeros."""
    with Daemon(tmp_path, "--no-fill", "--on-stop", on_stop).ready() as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        daemon.hand_over(memory)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGCONT)
        assert daemon.process.wait(LIMIT) == 0
        assert set(memory.states()) == {"right" if on_stop == "fill" else "poisoned"}


def test_half_a_hand_off_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with Daemon(tmp_path).ready() as daemon, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(daemon.socket))
        sock.sendall(b"[")
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < 8
        assert "Traceback" not in daemon.errors()


def test_fork_children_are_told(memory: Memory, puppet: Puppet, tmp_path: Path) -> None:
    with Daemon(tmp_path, "--no-fill").ready() as daemon:
        daemon.hand_over(memory, pyuffd.Feature.EVENTS)
        daemon.await_targets(1)
        with puppet.fork() as child:
            daemon.await_targets(2)
            parent, born = daemon.status()["targets"]
            assert (born["parent"], parent["children"]) == (parent["number"], 1)
            assert "child" in run("status", "--socket", str(daemon.socket)).stdout
            memory.touch(0, PAGES, child)
        until(lambda: born["number"] in [each["number"] for each in daemon.status()["ended"]], "the child's end")


def test_what_a_fork_child_misses_is_filled_too(puppet: Puppet, tmp_path: Path) -> None:
    """Nobody touches it."""
    memory = Memory(puppet, (256 << 20) // PAGE)
    with (tmp_path / "image").open("wb") as image:
        image.truncate(256 << 20)
    with Daemon(tmp_path).ready() as daemon:
        daemon.hand_over(memory, pyuffd.Feature.EVENTS)
        with puppet.fork():  # before the fill is done
            until(lambda: daemon.status()["ended"] and not daemon.status()["targets"], "the ends")
            parent, born = sorted(daemon.status()["ended"], key=lambda each: each["number"])
            assert (born["parent"], born["missing"]) == (parent["number"], 0)


def test_connections_wait_for_descriptors_without_a_busy_loop() -> None:
    """A listener that cannot accept stays readable."""
    turns, accepted = run_child(_accepted_at_the_limit)
    assert turns < 20
    assert accepted == 1


def _accepted_at_the_limit() -> None:
    accepted: list[socket.socket] = []
    path = f"\0pyuffd-{os.getpid()}"
    with Loop() as loop, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        loop.welcome(listener, accepted.append)
        client.connect(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        turns, began = 0, time.monotonic()
        while time.monotonic() < began + 0.5:
            loop.turn(0.1)
            turns += 1
        assert not accepted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while not accepted:
            loop.turn(0.1)
        accepted[0].close()
    tell([turns, len(accepted)])

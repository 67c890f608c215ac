"""A program that the real criu dumps and restores, with the daemon of pyuffd, or the page server of either."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.criu_daemon import CriuDaemon
from support.criu_pages import PagesDaemon
from support.state import until

CRIU = shutil.which("criu")

pytestmark = [
    pytest.mark.requires_full_userfaultfd,
    pytest.mark.skipif(CRIU is None, reason="criu is not installed"),
]

# Its memory has known bytes; so have those of its child, and of a child that each of both forks after the restore.
PROGRAM = """
import hashlib, mmap, os, pathlib, random, signal, sys
folder = pathlib.Path(sys.argv[1])
memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = random.Random(1).randbytes(len(memory))
right = hashlib.sha256(memory).hexdigest()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
who = "parent" if os.fork() else "child"
(folder / f"{who} pid").write_text(str(os.getpid()))
signal.sigwait({signal.SIGUSR1})
forked = os.fork()
told = str(hashlib.sha256(memory).hexdigest() == right)
if not forked:
    (folder / f"{who} forked").write_text(told)
    os._exit(0)
os.waitpid(forked, 0)
(folder / who).write_text(told)
signal.pause()
"""
TASKS = ("parent", "child")


class Program:
    """The program, which lives in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        starter = ["setsid", "--fork", sys.executable, "-c", PROGRAM, str(folder)]
        nothing = subprocess.DEVNULL
        subprocess.run(starter, stdin=nothing, stdout=nothing, stderr=nothing, check=True)
        until(lambda: all(self.pid_of(who) for who in TASKS), "the program")

    def pid_of(self, who: str) -> int:
        """Its pid, or that of its child; 0 before there is one."""
        try:
            return int((self.folder / f"{who} pid").read_text() or 0)
        except FileNotFoundError:
            return 0

    def is_gone(self) -> bool:
        return not any(Path(f"/proc/{self.pid_of(who)}").exists() for who in TASKS)

    def verify(self) -> None:
        """Have all look at their memory."""
        for who in TASKS:
            os.kill(self.pid_of(who), signal.SIGUSR1)
        told = [self.folder / name for who in TASKS for name in (who, f"{who} forked")]
        until(lambda: all(file.exists() and file.read_text() for file in told), "what they tell")
        assert [file.read_text() for file in told] == ["True"] * 4


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    check = subprocess.run([str(CRIU), "check"], capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"this criu does not work on this kernel: {check.stderr.strip().splitlines()[-1]}")
    program = Program(tmp_path / "program")
    try:
        yield program
    finally:
        for who in TASKS:
            if not program.is_gone():
                os.kill(program.pid_of(who), signal.SIGKILL)


def criu(command: str, images: Path, *options: str) -> None:
    words = [str(CRIU), command, "-D", str(images), "-o", f"{command}.log", "--shell-job", *options]
    done = subprocess.run(words, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (images / f"{command}.log").read_text()[-2000:]


def dumped(program: Program, images: Path) -> Path:
    images.mkdir()
    criu("dump", images, "-t", str(program.pid_of("parent")))
    until(program.is_gone, "the end of the program")
    return images


@pytest.mark.parametrize("fill", ["eager", "idle"])
def test_a_restore(program: Program, tmp_path: Path, fill: str) -> None:
    images = dumped(program, tmp_path / "images")
    with CriuDaemon(images, "--fill", fill) as daemon:
        criu("restore", images, "--lazy-pages", "-d")
        program.verify()
        assert daemon.finish().count("ended by early-close") >= len(TASKS)


def test_the_client_is_criu(program: Program, tmp_path: Path) -> None:
    """Its daemon reads from our page server."""
    images = dumped(program, tmp_path / "images")
    with PagesDaemon(images) as server:
        words = [str(CRIU), "lazy-pages", "-D", str(images), "--page-server", "--address", "127.0.0.1"]
        with subprocess.Popen([*words, "--port", str(server.port)]) as daemon:
            until((images / "lazy-pages.socket").exists, "criu lazy-pages")
            criu("restore", images, "--lazy-pages", "-d")
            program.verify()
            assert daemon.wait(60) == 0

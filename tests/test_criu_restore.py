"""``pyuffd serve criu`` beside an imitation of ``criu restore --lazy-pages``, whose every byte is compared."""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.child import become_nobody, run_child, tell
from support.criu_daemon import COMMAND, CriuDaemon, refused
from support.criu_images import PAGE, Imitated, Mapped, Saved, Written, write
from support.criu_restore import BASE, MARKER, Restoration
from support.state import until

import pyuffd

pytestmark = [pytest.mark.requires_full_userfaultfd, pytest.mark.requires_root]

MIB = 1 << 20
OTHER = BASE + (1 << 30)  # where nothing was mapped


def task(pid: int = 7, ppid: int = 0, **more: Any) -> Imitated:
    """A task with a heap that has a gap, pages that the restore installs itself, and a smaller mapping."""
    mapped = (Mapped(BASE, 4 * MIB), Mapped(BASE + 8 * MIB, MIB // 2))
    saved = (
        Saved(BASE, 2 * MIB),
        Saved(BASE + 2 * MIB, 256 * 1024, "present"),
        Saved(BASE + 3 * MIB, 512 * 1024),
        Saved(BASE + 8 * MIB, MIB // 2),
    )
    return Imitated(pid, ppid, mapped=more.pop("mapped", mapped), saved=more.pop("saved", saved), **more)


PAGES = (4 * MIB + MIB // 2) // PAGE
TREE = (task(7), task(8, 7), task(12, 8), Imitated(9, 7, comm="zombie"))


def restored(written: Written, tasks: Sequence[Imitated], *options: str, code: int = 0, **plan: Any) -> dict[int, Any]:
    """Restore, and look that no page of any task is wrong or poisoned."""
    with CriuDaemon(written.path, *options) as daemon:
        reports = Restoration(written, tasks, written.path, **plan).reports()
        daemon.finish(code)
    assert reports.keys() == {each.pid for each in tasks}
    for report in reports.values():
        assert (report["wrong"], report["poisoned"]) == (0, 0), report
        assert set(report.get("children", [])) <= {0}, report
    return reports


@pytest.mark.parametrize("fill", ["eager", "idle", "never"])
def test_a_tree_of_tasks_is_restored(tmp_path: Path, fill: str) -> None:
    reports = restored(write(tmp_path, TREE), TREE, "--fill", fill)
    assert [reports[pid]["checked"] for pid in (7, 8, 12, 9)] == [PAGES, PAGES, PAGES, 0]


@pytest.mark.parametrize("step", ["connected", "pid", "descriptor", "registers", "marker", "steps"])
def test_a_restore_that_takes_its_time(tmp_path: Path, step: str) -> None:
    tasks = (task(7), task(8, 7))
    restored(write(tmp_path, tasks), tasks, delays={step: 0.1})


def test_messages_that_come_in_pieces(tmp_path: Path) -> None:
    restored(write(tmp_path, TREE), TREE, pieces=True)


def test_memory_that_is_dropped_moved_unmapped_and_forked_at_once(tmp_path: Path) -> None:
    steps = [
        ["drop", BASE + 64 * PAGE, 32 * PAGE],
        ["fork"],
        ["move", BASE + MIB, MIB, OTHER],
        ["fork"],
        ["unmap", BASE + 128 * PAGE, 64 * PAGE],
        ["drop", OTHER + 16 * PAGE, 16 * PAGE],
        ["write", BASE],
        ["write", BASE + 3 * MIB - PAGE],  # in the gap
        ["fork"],
        ["touch"],
    ]
    restored(write(tmp_path, TREE), TREE, steps=dict.fromkeys((7, 8, 12), steps))


@pytest.mark.parametrize("fill", ["eager", "never"])
@pytest.mark.parametrize("step", ["exec", "die", "exit"])
def test_tasks_that_end_hold_nobody_up(tmp_path: Path, step: str, fill: str) -> None:
    tasks = (task(7), task(8), task(9, 8))
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--fill", fill) as daemon:
        restoration = Restoration(written, tasks, tmp_path, steps={8: [["fork"], [step]]})
        reports = restoration.reports()
        daemon.finish()
    assert reports[7]["checked"] == reports[9]["checked"] == PAGES


def test_compressed_and_inherited_pages(tmp_path: Path) -> None:
    pytest.importorskip("lz4")
    parent = write(tmp_path / "parent", [task()])
    saved = (
        Saved(BASE, MIB, "lazy parent"),
        Saved(BASE + MIB, MIB, block=64),
        Saved(BASE + 2 * MIB, 256 * 1024, "present"),
        Saved(BASE + 3 * MIB, 512 * 1024, block=1),
        Saved(BASE + 8 * MIB, MIB // 2, "lazy parent"),
    )
    tasks = (task(saved=saved),)
    restored(write(tmp_path / "child", tasks, parent=parent, version=3), tasks)


def test_many_tasks(tmp_path: Path) -> None:
    small: dict[str, Any] = {"mapped": (Mapped(BASE, 16 * PAGE),), "saved": (Saved(BASE, 8 * PAGE),)}
    tasks = [task(7, **small), *(task(pid, 7, **small) for pid in range(8, 128))]
    assert sum(report["checked"] for report in restored(write(tmp_path, tasks), tasks).values()) == 121 * 16


@pytest.mark.parametrize(
    ("step", "code"), [("pid", -9), ("descriptor", -9), ("registers", -9), ("early", -9), ("marker", 3)]
)
def test_a_restore_that_dies_leaves_nobody_asleep(tmp_path: Path, step: str, code: int) -> None:
    """Its tasks may live on; what they miss is poisoned, and never zeros."""
    tasks = (task(7), task(8, 7))
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path) as daemon:
        reports = Restoration(written, tasks, tmp_path, ends_at=step).reports(expected=code)
        errors = daemon.finish(1)
    assert "closed the connection before all tasks were restored" in errors
    assert len(reports) == (2 if step in ("early", "marker") else 0)
    for report in reports.values():
        assert report["wrong"] == 0
        assert report["checked"] + report["poisoned"] == PAGES
        assert report["poisoned"] > PAGES // 2


def test_what_is_told(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    tasks = (task(7, comm="redis-server"),)
    written = write(tmp_path / "images", tasks)
    options = ["--log-json", "events", "--pidfile", "pid", "-o", "log"]
    with CriuDaemon(tmp_path / "images", *options, work=work) as daemon:
        until(lambda: (work / "pid").exists() and (work / "pid").read_text() == f"{daemon.process.pid}\n", "its pid")
        Restoration(written, tasks, work, steps={7: [["fork"], ["touch"]]}).reports()
        assert daemon.finish() == ""
    log = (work / "log").read_text()
    lazy = sum(each.length for each in tasks[0].saved if each.kind == "lazy") // PAGE
    assert f"task 7 (redis-server): {lazy} pages" in log
    assert "task 7 (redis-server): ended by early-close in " in log
    assert "a fork child of task 7 (redis-server): ended by early-close in " in log
    assert "all tasks are complete" in log
    events = [json.loads(line) for line in (work / "events").read_text().splitlines()]
    assert [each["event"] for each in events if not each.get("child")] == ["served", "restored", "ended", "finished"]
    ended = next(each for each in events if each["event"] == "ended" and not each["child"])
    assert (ended["restored_pid"], ended["program"], ended["missing"]) == (7, "redis-server", 0)
    assert ended["ending"]["verified"] in (True, None)


def test_status_tells_what_is_served(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--fill", "never") as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"steps": 2.0})
        until(lambda: daemon.status()["targets"], "a target")
        (target,) = daemon.status()["targets"]
        assert (target["restored_pid"], target["missing"]) == (7, target["pages"])
        restoration.reports()
        daemon.finish()


def test_the_status_descriptor_and_the_background(tmp_path: Path) -> None:
    """As scripts start criu lazy-pages."""
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    reader, writer = os.pipe()
    command = [*COMMAND, "serve", "criu", "-D", str(tmp_path), "--daemon", "--pidfile", "pid", "-o", "log",
               "-v4", "--status-fd", str(writer)]  # fmt: skip
    subprocess.run(command, pass_fds=[writer], check=True, timeout=20)
    os.close(writer)
    assert os.read(reader, 2) == b"\0"
    os.close(reader)
    pid = int((tmp_path / "pid").read_text())
    daemon = os.pidfd_open(pid)
    Restoration(written, tasks, tmp_path).reports()
    until(lambda: not Path(f"/proc/{pid}/maps").exists() or not Path(f"/proc/{pid}/maps").read_text(), "its end")
    os.close(daemon)
    assert "all tasks are complete" in (tmp_path / "log").read_text()


def test_sigterm_fills_what_is_missing(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--fill", "never") as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"steps": 1.0})
        until(lambda: "criu restore has finished" in daemon.errors(), "the marker")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.finish()
        assert restoration.reports()[7]["checked"] == PAGES


def test_sigterm_before_the_marker_ends_the_restore(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path) as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"marker": 1.0})
        until(lambda: "task 7" in daemon.errors(), "the task")
        daemon.process.send_signal(signal.SIGTERM)
        assert "stopped before criu restore had finished" in daemon.finish(1)
        report = restoration.reports(expected=1).get(7, {"wrong": 0})  # its marker reaches nobody
        assert report["wrong"] == 0


@pytest.mark.parametrize("times", range(3))
def test_a_task_that_no_image_has_is_poisoned_with_the_others(tmp_path: Path, times: int) -> None:
    """The restore hears that it has failed, and nobody reads zeros."""
    tasks = (task(7), task(8))
    written = write(tmp_path / "images", tasks[:1])
    other = write(tmp_path / "others", tasks)
    written.pages.update(other.pages)
    with CriuDaemon(written.path) as daemon:
        reports = Restoration(written, tasks, written.path, ends_at="marker").reports(expected=3)
        assert "task 8 is not in the images" in daemon.finish(1)
    for report in reports.values():
        assert report["wrong"] == 0


def test_a_journal_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    tasks = (task(7), task(8))
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--log-json", "/dev/full") as daemon:
        reports = Restoration(written, tasks, tmp_path).reports()
        assert "no events are written any more" in daemon.finish()
    assert [reports[pid]["checked"] for pid in (7, 8)] == [PAGES, PAGES]


def test_the_marker_is_read_before_a_stop(tmp_path: Path) -> None:
    """And tasks that have forked by then are served on."""
    tasks = (task(7), task(8))
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--fill", "never") as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"marker": 0.3}, steps={7: [["fork"], ["touch"]]})
        until(lambda: "task 8" in daemon.errors() and "task 7" in daemon.errors(), "the tasks")
        with socket.socket(socket.AF_UNIX) as silent:  # who holds the loop up for a second
            silent.connect(str(tmp_path / "lazy-pages.socket.control"))
            until(lambda: (tmp_path / "marked").exists(), "the marker")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.finish()
        reports = restoration.reports()
    assert [reports[pid]["checked"] for pid in (7, 8)] == [PAGES, PAGES]
    assert reports[7]["children"] == [0]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_background_without_standard_streams(tmp_path: Path, closed: str) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    command = f"exec {' '.join(COMMAND)} serve criu -D {tmp_path} -d --pidfile pid -o log {closed}"
    subprocess.run(["sh", "-c", command], check=True, timeout=20)
    assert Restoration(written, tasks, tmp_path).reports()[7]["checked"] == PAGES
    until(lambda: "all tasks are complete" in (tmp_path / "log").read_text(), "its end")


def test_a_hang_up_is_a_stop(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--fill", "never") as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"steps": 1.0})
        until(lambda: "criu restore has finished" in daemon.errors(), "the marker")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.finish()
        assert restoration.reports()[7]["checked"] == PAGES


def test_a_daemon_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which it inherits
    try:
        daemon = CriuDaemon(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    with daemon:
        daemon.process.send_signal(signal.SIGHUP)
        assert Restoration(written, tasks, tmp_path).reports()[7]["checked"] == PAGES
        daemon.finish()


def connect(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(folder / "lazy-pages.socket"))
    return sock


def test_a_restore_that_dies_before_its_first_task(tmp_path: Path) -> None:
    write(tmp_path, (task(7),))
    with CriuDaemon(tmp_path) as daemon:
        connect(tmp_path).close()
        assert "closed the connection before" in daemon.finish(1)


def test_a_second_restore_is_refused(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path) as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"marker": 1.0})
        until(lambda: "task 7" in daemon.errors(), "the first restore")
        with connect(tmp_path) as second:
            second.settimeout(10)
            assert second.recv(1) == b""
        assert restoration.reports()[7]["checked"] == PAGES
        assert "another restore is under way" in daemon.finish()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("=i", -8), "task 8 is not in the images"),
        (struct.pack("=i", 0), "0 came instead of a pid"),
        (struct.pack("=i", 1 << 30), "1073741824 came instead of a pid"),
        (b"GET / HTTP/1.0", "542393671 came instead of a pid"),
        (struct.pack("=ii", -9, -9), "task 9 came twice"),
        (struct.pack("=i", 7) + b"\0", "what followed pid 7 is not one userfaultfd"),
        (struct.pack("=i", 7), "closed the connection before"),
        (struct.pack("=I", MARKER) + b"x", "sent something after its marker"),
    ],
    ids=["unknown", "zero", "huge", "http", "twice", "no descriptor", "ended", "after the marker"],
)
def test_what_is_no_restore_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    write(tmp_path, (task(7), Imitated(9)))
    with CriuDaemon(tmp_path) as daemon:
        with connect(tmp_path) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                sock.recv(1)
        assert message in daemon.finish(1)


@pytest.mark.parametrize("count", [1, 3])
def test_descriptors_that_are_no_userfaultfd(tmp_path: Path, count: int) -> None:
    write(tmp_path, (task(7),))
    with CriuDaemon(tmp_path) as daemon, connect(tmp_path) as sock, Path(os.devnull).open() as nothing:
        sock.sendall(struct.pack("=i", 7))
        socket.send_fds(sock, [b"\0"], [nothing.fileno()] * count)
        assert "what followed pid 7 is not one userfaultfd" in daemon.finish(1)


def test_a_userfaultfd_before_its_pid(tmp_path: Path) -> None:
    write(tmp_path, (task(7),))
    with CriuDaemon(tmp_path) as daemon, connect(tmp_path) as sock, pyuffd.Userfaultfd() as uffd:
        socket.send_fds(sock, [b"\0"], [uffd.fileno()])
        assert "a descriptor came before the pid" in daemon.finish(1)


def connect_as_nobody(folder: str) -> None:
    become_nobody()
    try:
        connect(Path(folder)).close()
    except PermissionError:
        tell("refused")


@pytest.mark.requires_root
def test_another_user_is_refused(tmp_path: Path) -> None:
    write(tmp_path, (task(7),))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(0o755)
    with CriuDaemon(tmp_path):
        assert run_child(connect_as_nobody, tmp_path) == "refused"


def test_two_daemons_at_one_place(tmp_path: Path) -> None:
    write(tmp_path, (task(7),))
    with CriuDaemon(tmp_path):
        assert "another daemon listens at" in refused("criu", "-D", str(tmp_path))


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "lazy-pages.socket"))
    with CriuDaemon(tmp_path, "-v1") as daemon:
        Restoration(written, tasks, tmp_path).reports()
        assert daemon.finish() == ""


def test_a_folder_whose_name_is_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    write(long, (task(7),))
    assert "AF_UNIX path too long" in refused("criu", "-D", str(long))


def damaged(folder: Path) -> None:
    (folder / "pagemap-7.img").write_bytes(b"no pagemap")


def without_pages(folder: Path) -> None:
    (folder / "pages-1.img").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "pagemap-7.img: "),
        (without_pages, "pages-1.img: the file is missing"),
        (shutil.rmtree, "No such file or directory"),
    ],
)
def test_images_that_are_damaged_are_told_before_it_listens(tmp_path: Path, harm: Any, message: str) -> None:
    folder = tmp_path / "images"
    write(folder, (task(7),))
    harm(folder)
    said = refused("criu", "-D", str(folder), "-W", str(tmp_path))
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "lazy-pages.socket").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lazier"], "unrecognized arguments: --lazier"),
        (["--fill", "some"], "invalid choice: 'some'"),
        (["--page-server"], "needs --address and --port"),
        (["--page-server", "--address", "::1", "--port", "70000"], "70000 is no port"),
        (["--handlers", "0"], "0 is less than 1"),
        (["--status-fd", "987"], "--status-fd 987 cannot be written to: Bad file descriptor"),
        (["--log-json", "/nowhere/events"], "--log-json /nowhere/events cannot be written: No such file"),
        (["-o", "/nowhere/log"], "--log-file /nowhere/log cannot be written: No such file"),
        (["--pidfile", "/nowhere/pid"], "--pidfile /nowhere/pid cannot be written: No such file"),
        (["-v", "abc"], "abc is no number: give -v0 to -v4"),
        # CRIU takes them without a word; what follows only ends the daemon.
        (["--address", "::1", "--status-fd", "987"], "--address does nothing without --page-server"),
        (
            ["--page-server", "--address", "::1", "--port", "1", "--tls-key", "key", "--status-fd", "987"],
            "--tls-key does nothing without --tls",
        ),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    write(tmp_path, (task(7),))
    assert message in refused("criu", "-D", str(tmp_path), *options)


def test_options_of_criu_that_mean_nothing_here(tmp_path: Path) -> None:
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path, "--no-default-config", "--verbosity=4", "--config=x", "-L", "y", "--shell-job") as daemon:
        Restoration(written, tasks, tmp_path).reports()
        assert "are ignored: --no-default-config --config -L --shell-job" in daemon.finish()


def test_pages_of_a_page_server_without_one(tmp_path: Path) -> None:
    write(tmp_path, (task(saved=(Saved(BASE, MIB, "remote"),)),))
    said = refused("criu", "-D", str(tmp_path))
    assert "pagemap-7.img: its pages are with the page server: give --page-server" in said


def test_a_descriptor_of_a_task_without_memory(tmp_path: Path) -> None:
    write(tmp_path, (task(7), Imitated(9)))
    with CriuDaemon(tmp_path) as daemon, connect(tmp_path) as sock, pyuffd.Userfaultfd() as uffd:
        sock.sendall(struct.pack("=i", 9))
        socket.send_fds(sock, [b"\0"], [uffd.fileno()])
        assert "has no memory in the images" in daemon.finish(1)


def test_a_pages_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    """What it had is poisoned, never zeros, and the daemon's code says so."""
    tasks = (task(7),)
    written = write(tmp_path, tasks)
    with CriuDaemon(tmp_path) as daemon:
        restoration = Restoration(written, tasks, tmp_path, delays={"marker": 0.5})
        until(lambda: "task 7" in daemon.errors(), "the task")
        os.truncate(tmp_path / "pages-1.img", MIB)
        report = restoration.reports()[7]
        assert report["wrong"] == 0
        assert report["poisoned"] > 0
        assert "are poisoned" in daemon.finish(1)

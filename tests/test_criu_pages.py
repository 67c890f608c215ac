"""Pages that are with a page server: the client of ``pyuffd serve criu``, and ``pyuffd serve criu-pages``."""

import contextlib
import shutil
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.criu_daemon import CriuDaemon, refused
from support.criu_images import PAGE, Imitated, Kind, Mapped, Saved, Written, write
from support.criu_pages import (
    ADD_F,
    CLOSE,
    GET,
    NARROW,
    WIDE,
    FakePages,
    PagesDaemon,
    make_certificates,
    options,
    tls_options,
)
from support.criu_restore import BASE, Restoration
from support.state import until

MIB = 1 << 20
LAZY = 4 * MIB


def tasks(kind: Kind, block: int = 0) -> list[Imitated]:
    saved = (Saved(BASE, LAZY, kind, block=block),)
    return [Imitated(pid, mapped=(Mapped(BASE, LAZY + MIB),), saved=saved) for pid in (7, 8)]


def both_ends(folder: Path, *, old: bool = False, block: int = 0) -> tuple[Written, Written]:
    """The images with all pages, and those of the other host, which has none of them."""
    full = write(folder / "full", tasks("lazy", block), version=3 if block else 2, old=old)
    thin = write(folder / "thin", tasks("remote"), old=old)
    thin.pages.update(full.pages)
    return full, thin


def restore(thin: Written, arguments: Sequence[str], code: int = 0, **plan: Any) -> tuple[dict[int, Any], str]:
    """Restore, and return what the tasks found, and what the daemon said."""
    with CriuDaemon(thin.path, *arguments) as daemon:
        reports = Restoration(thin, tasks("remote"), thin.path, **plan).reports()
        said = daemon.finish(code)
    assert all(report["wrong"] == 0 for report in reports.values())
    return reports, said


def all_right(reports: dict[int, Any]) -> bool:
    return [reports[pid]["checked"] for pid in (7, 8)] == [(LAZY + MIB) // PAGE] * 2


@pytest.mark.requires_full_userfaultfd
@pytest.mark.requires_root
class TestBothEnds:
    """Both ends are pyuffd's."""

    @pytest.mark.parametrize("old", [False, True], ids=["of 32 bytes", "of 24 bytes"])
    @pytest.mark.parametrize("fill", ["eager", "never"])
    def test_every_byte_arrives(self, tmp_path: Path, old: bool, fill: str) -> None:
        full, thin = both_ends(tmp_path, old=old)
        with PagesDaemon(full.path) as pages:
            reports, _ = restore(thin, [*pages.options(), "--fill", fill])
            until(lambda: "has read" in pages.log(), "the end of the connection")
        assert all_right(reports)

    def test_several_connections(self, tmp_path: Path) -> None:
        full, thin = both_ends(tmp_path)
        with PagesDaemon(full.path) as pages:
            reports, _ = restore(thin, [*pages.options(), "--connections", "3"], steps={7: [["fork"], ["touch"]]})
            until(lambda: pages.log().count("has read") == 3, "the end of three connections")
        assert all_right(reports)
        assert reports[7]["children"] == [0]

    def test_pages_that_are_compressed_at_the_other_end(self, tmp_path: Path) -> None:
        pytest.importorskip("lz4")
        full, thin = both_ends(tmp_path, block=16)
        with PagesDaemon(full.path) as pages:
            assert all_right(restore(thin, pages.options())[0])

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
    def test_tls(self, tmp_path: Path) -> None:
        full, thin = both_ends(tmp_path)
        secured = tls_options(make_certificates(tmp_path / "tls"))
        with PagesDaemon(full.path, *secured) as pages:
            assert all_right(restore(thin, [*pages.options(), *secured, "--connections", "2"])[0])
            with socket.create_connection(("127.0.0.1", pages.port)) as plain:
                plain.sendall(WIDE.pack(GET, 1, BASE, 7))
                plain.settimeout(10)
                assert thin.memory(7, BASE, PAGE) not in until_end(plain)

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
    def test_a_certificate_of_somebody_else(self, tmp_path: Path) -> None:
        full, thin = both_ends(tmp_path)
        ours, theirs = (tls_options(make_certificates(tmp_path / name)) for name in ("ours", "theirs"))
        with PagesDaemon(full.path, *ours) as pages:
            steps = {pid: [["look", BASE], ["exit"]] for pid in (7, 8)}
            reports, said = restore(thin, [*pages.options(), *theirs, "--fill", "never"], 1, steps=steps)
        assert "certificate verify failed" in said
        assert all(report["poisoned"] > 0 for report in reports.values())

    def test_a_server_that_ends_in_the_middle(self, tmp_path: Path) -> None:
        """What is missing then is poisoned, and never zeros."""
        full, thin = both_ends(tmp_path)
        with PagesDaemon(full.path) as pages:
            daemon = CriuDaemon(thin.path, *pages.options(), "--fill", "never", "--answer-timeout", "1")
            with daemon:
                steps = {pid: [["look", BASE + MIB], ["look", BASE + 2 * MIB], ["exit"]] for pid in (7, 8)}
                restoration = Restoration(thin, tasks("remote"), thin.path, delays={"steps": 1.5}, steps=steps)
                until(lambda: "criu restore has finished" in daemon.errors(), "the marker")
                pages.process.terminate()
                pages.process.wait()
                reports = restoration.reports()
                assert "cannot connect to the page server at 127.0.0.1" in daemon.finish(1)
        assert all(report["wrong"] == 0 and report["poisoned"] > 0 for report in reports.values())


@pytest.mark.requires_full_userfaultfd
@pytest.mark.requires_root
class TestClient:
    """The client beside servers that answer as they like."""

    @pytest.mark.parametrize("old", [False, True], ids=["images of 4.2", "images before"])
    @pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["of 32 bytes", "of 24 bytes"])
    def test_the_layout_is_found_out(self, tmp_path: Path, layout: struct.Struct, old: bool) -> None:
        _, thin = both_ends(tmp_path, old=old)

        def answer(connection: socket.socket, pages: int, address: int, task: int) -> None:
            server.send(connection, pages, address, task, thin.memory(task, address, pages * PAGE))

        with FakePages(answer, layout) as server:
            assert all_right(restore(thin, [*options(server.port), "--answer-timeout", "1"])[0])
            # A stranger's layout costs a connection; where the images tell the right one, CRIU's server sees one only.
            assert server.connections == (1 if (layout is NARROW) == old else 2)

    @pytest.mark.parametrize("old", [False, True], ids=["images of 4.2", "images before"])
    def test_a_server_that_nothing_is_read_from_hears_of_the_end(self, tmp_path: Path, old: bool) -> None:
        """``criu dump --lazy-pages`` waits for it."""
        full, _ = both_ends(tmp_path, old=old)
        with (
            FakePages(lambda *_: None, NARROW if old else WIDE) as server,
            CriuDaemon(full.path, *options(server.port)) as daemon,
        ):
            Restoration(full, tasks("lazy"), full.path).reports()
            daemon.finish()
            assert (server.connections, server.closed, server.requests) == (1, 1, [])

    def test_a_server_hears_of_a_restore_that_fails(self, tmp_path: Path) -> None:
        full, _ = both_ends(tmp_path)
        with FakePages(lambda *_: None) as server, CriuDaemon(full.path, *options(server.port)) as daemon:
            Restoration(full, tasks("lazy"), full.path, ends_at="marker").reports(expected=3)
            daemon.finish(1)
            until(lambda: server.connections == 1, "the connection")
            assert server.closed == 0

    def test_answers_with_fewer_pages(self, tmp_path: Path) -> None:
        _, thin = both_ends(tmp_path)

        def answer(connection: socket.socket, pages: int, address: int, task: int) -> None:
            fewer = max(pages // 3, 1)
            server.send(connection, fewer, address, task, thin.memory(task, address, fewer * PAGE))

        with FakePages(answer) as server:
            assert all_right(restore(thin, options(server.port))[0])

    def test_answers_that_come_in_pieces_and_late(self, tmp_path: Path) -> None:
        _, thin = both_ends(tmp_path)

        def answer(connection: socket.socket, pages: int, address: int, task: int) -> None:
            data = WIDE.pack(ADD_F, pages, address, task) + thin.memory(task, address, pages * PAGE)
            for at in range(0, len(data), 50000):
                time.sleep(0.001)  # how late they are
                connection.sendall(data[at : at + 50000])

        with FakePages(answer) as server:
            assert all_right(restore(thin, options(server.port))[0])

    def test_requests_are_under_way_together(self, tmp_path: Path) -> None:
        """A server that waits with its first answer until another request is there gets one."""
        _, thin = both_ends(tmp_path)
        waiting: list[tuple[int, int, int]] = []

        def answer(connection: socket.socket, pages: int, address: int, task: int) -> None:
            waiting.append((pages, address, task))
            if len(server.requests) == 2 and len(waiting) == 1:
                return  # the first after the one that tries the layout
            for each in waiting:
                server.send(connection, *each, thin.memory(each[2], each[1], each[0] * PAGE))
            waiting.clear()

        with FakePages(answer) as server:
            assert all_right(restore(thin, options(server.port))[0])

    @pytest.mark.parametrize("lie", ["more pages", "no page", "another address", "another task", "another command",
                                     "half an answer", "nothing", "silence"])  # fmt: skip
    def test_a_server_that_lies_is_told(self, tmp_path: Path, lie: str) -> None:
        """Pages are poisoned, never wrong and never zeros, and nobody sleeps."""
        _, thin = both_ends(tmp_path)
        honest = threading.Event()

        def answer(connection: socket.socket, pages: int, address: int, task: int) -> None:
            if not honest.is_set():
                honest.set()
                return server.send(connection, pages, address, task, thin.memory(task, address, pages * PAGE))
            junk = b"j" * PAGE * pages
            if lie == "more pages":
                server.send(connection, pages + 1, address, task, junk + b"j" * PAGE)
            elif lie == "no page":
                server.send(connection, 0, address, task, b"")
            elif lie == "another address":
                server.send(connection, pages, address + PAGE, task, junk)
            elif lie == "another task":
                server.send(connection, pages, address, task + 1, junk)
            elif lie == "another command":
                connection.sendall(WIDE.pack(1, pages, address, task) + junk)
            elif lie == "half an answer":
                connection.sendall(WIDE.pack(ADD_F, pages, address, task) + junk[:100])
                connection.shutdown(socket.SHUT_RDWR)
            elif lie == "nothing":
                connection.shutdown(socket.SHUT_RDWR)
            return None

        with FakePages(answer) as server:
            arguments = [*options(server.port), "--fill", "never", "--answer-timeout", "0.3"]
            steps = {pid: [["look", BASE + LAZY // 2], ["exit"]] for pid in (7, 8)}
            reports, said = restore(thin, arguments, 1, steps=steps)
        assert sum(report["poisoned"] for report in reports.values()) == 2
        assert "are poisoned: " in said


class TestServer:
    """The server beside clients that ask as they like."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> Written:
        return write(tmp_path / "full", tasks("lazy"))

    @pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["of 32 bytes", "of 24 bytes"])
    def test_an_answer(self, images: Written, layout: struct.Struct) -> None:
        with PagesDaemon(images.path) as server, connected(server) as sock:
            for pages, address in ((3, BASE + PAGE), (1 << 30, BASE + LAZY - 2 * PAGE)):
                sock.sendall(layout.pack(GET, pages, address, 7))
                command, found, where, task = layout.unpack(received(sock, layout.size))
                assert (command, where, task) == (ADD_F, address, 7)
                assert found == min(pages, (BASE + LAZY - address) // PAGE)
                assert received(sock, found * PAGE) == images.memory(7, address, found * PAGE)
            sock.sendall(layout.pack(CLOSE, 0, 0, 0))
            assert sock.recv(5) == struct.pack("=i", 0)
            assert sock.recv(1) == b""

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            (WIDE.pack(GET, 1, BASE, 99), "there is no task 99"),
            (WIDE.pack(GET, 1, BASE - PAGE, 7), "no image has 1 pages of task 7"),
            (WIDE.pack(GET, 1, BASE + 1, 7), "no image has 1 pages"),
            (WIDE.pack(GET, 0, BASE, 7), "no image has 0 pages"),
            (WIDE.pack(1, 1, BASE, 7), "command 0x1 is none"),
            (b"GET / HTTP/1.1\r\nHost: somebody.else\r\n\r\n", "is none of a lazy restore's"),
            (WIDE.pack(GET, 1, BASE, 7)[:30], "closed the connection in a request"),
            (b"x", "closed the connection in a request"),
        ],
        ids=["task", "address", "odd address", "no page", "command", "http", "half", "a byte"],
    )
    def test_what_it_refuses(self, images: Written, request_: bytes, message: str) -> None:
        with PagesDaemon(images.path) as server:
            with connected(server) as sock:
                sock.sendall(request_)
                sock.shutdown(socket.SHUT_WR)
                assert until_end(sock) == b""
            until(lambda: message in server.log(), "its line")
            with connected(server) as sock:  # it goes on with others
                sock.sendall(WIDE.pack(GET, 1, BASE, 8))
                assert len(received(sock, WIDE.size + PAGE)) == WIDE.size + PAGE

    def test_more_connections_than_it_may_have(self, images: Written) -> None:
        with PagesDaemon(images.path, "--connections", "2") as server:
            socks = [connected(server) for _ in range(3)]
            for sock in socks[:2]:
                sock.sendall(WIDE.pack(GET, 1, BASE, 7))
                received(sock, WIDE.size + PAGE)
            assert socks[2].recv(1) == b""
            for sock in socks:
                sock.close()
            assert "2 connections are open (--connections)" in server.log()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--port", "x"], "invalid port value"),
            (["--address", "192.0.2.1", "--port", "1"], "Cannot assign requested address"),
            (["--tls", "--tls-cert", "/nowhere"], "--tls cannot use /nowhere"),
        ],
    )
    def test_options_that_are_refused(self, images: Written, arguments: list[str], message: str) -> None:
        assert message in refused("criu-pages", "-D", str(images.path), *arguments)


def connected(server: PagesDaemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def until_end(sock: socket.socket) -> bytes:
    """All that comes, to the end of the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part, f"{len(data)} of {count} bytes came"
        data += part
    return data

"""The hand-off: Firecracker's format over a unix socket; what is wrong is named, and no descriptor is lost."""

import array
import contextlib
import faulthandler
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.child import Child, hear, run_child, tell
from support.memory import PAGE, Managed
from support.state import no_descriptor_leaks, until

import pyuffd
from pyuffd import _strangers, handoff

START = 0x7000_0000_0000
GOOD = {"base_host_virt_addr": START, "size": 2 * PAGE, "offset": 0, "page_size": PAGE}
SOURCE = pyuffd.ZeroSource()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def send_raw(sock: socket.socket, text: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    sock.sendmsg([text], rights)


@contextlib.contextmanager
def userfaultfd() -> Iterator[int]:
    with pyuffd.Userfaultfd(user_mode_only=True) as uffd:
        yield uffd.fileno()


def refusal(pair: tuple[socket.socket, socket.socket], text: bytes, fds: list[int] | None = None) -> str:
    """Sends text with a userfaultfd, or with these descriptors; the error of receive(), which leaks none."""
    ours, theirs = pair
    with userfaultfd() as fd, no_descriptor_leaks():
        send_raw(theirs, text, [fd] if fds is None else fds)
        try:
            handoff.receive(ours, SOURCE)
        except (ValueError, ConnectionError) as error:
            return str(error)
        raise AssertionError("it was accepted")


def sender(pages: int) -> tuple[Managed, pyuffd.Userfaultfd, list[tuple[int, int, int, int]]]:
    """Memory, a userfaultfd, and the two halves of the memory as regions."""
    memory = Managed(pages=pages)
    half = memory.length // 2
    regions = [(memory.start, half, 0, PAGE), (memory.start + half, half, half, PAGE)]
    return memory, pyuffd.Userfaultfd(user_mode_only=True), regions


def round_trip_of_two_regions_child(fd: int, pages: int) -> None:
    memory, uffd, regions = sender(pages)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, uffd, regions)
        assert uffd.closed
    tell(memory.touch(order="random").wrong_pages)
    tell([memory.start, memory.length])


def test_round_trip_of_two_regions(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with Child(round_trip_of_two_regions_child, theirs.fileno(), 40, sockets=[theirs]) as child:
        twin = Managed(pages=40)
        got = handoff.receive(ours, twin.source)
        assert got.pid == child.pid
        assert not got.uffd.closed
        assert got.uffd.registered_by_sender
        assert not os.get_inheritable(got.uffd.fileno())
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
            assert child.hear() == 0
            start, length = child.hear()
            assert target.wait(20, progress=False)
            report = target.close()
        child.finish()
    assert [(region.start, region.length, region.source_offset) for region in got.regions] == [
        (start, length // 2, 0),
        (start + length // 2, length // 2, length // 2),
    ]
    assert all(region.page_size == PAGE and region.source is twin.source for region in got.regions)
    assert report.regions == 2
    assert report.ending in ("early-close", "unregister")


def a_sender_that_keeps_its_descriptor_gets_no_early_close_child(fd: int, pages: int) -> None:
    memory, uffd, regions = sender(pages)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, uffd, regions, keep=True)
    assert not uffd.closed
    hear()
    tell(memory.states().count("right"))


def test_a_sender_that_keeps_its_descriptor_gets_no_early_close(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with Child(
        a_sender_that_keeps_its_descriptor_gets_no_early_close_child, theirs.fileno(), 10, sockets=[theirs]
    ) as child:
        got = handoff.receive(ours, Managed(pages=10).source)
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid) as target:
            report = target.close("fill")
        assert report.ending == "unregister"
        assert report.verified is not False
        child.tell("go on")
        assert child.hear() == 10
        child.finish()


def firecracker_child(path: str, pages: int) -> None:
    memory, uffd, regions = sender(pages)
    import array

    text = json.dumps(
        [{"base_host_virt_addr": s, "size": n, "offset": o, "page_size_kib": p} for s, n, o, p in regions]
    )
    for start, length, _, _ in regions:
        uffd.register(start, length)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [uffd.fileno()]))])
        tell(memory.touch().wrong_pages)


def test_firecracker(tmp_path: Path) -> None:
    """It connects to a listening socket, sends page_size_kib, no credentials, and keeps its descriptor."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Child(firecracker_child, path, 20) as child:
            sock, _ = listener.accept()
            with sock:
                got = handoff.receive(sock, Managed(pages=20).source)
            assert got.pid == child.pid
            with pyuffd.serve(got.uffd, got.regions, pid=got.pid):
                assert child.hear() == 0
            child.finish()


def test_a_stream_may_cut_the_message_anywhere(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    text = json.dumps([GOOD, GOOD | {"base_host_virt_addr": START + 4 * PAGE}], indent=1).encode() + b"\n"

    def send_bytewise(fd: int) -> None:
        send_raw(theirs, text[:1], [fd])
        for i in range(1, len(text)):
            theirs.send(text[i : i + 1])

    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # so the kernel adds the sender's pid: this one's
    with userfaultfd() as fd:
        sender = threading.Thread(target=send_bytewise, args=(fd,))
        sender.start()
        got = handoff.receive(ours, SOURCE)
        sender.join()
        got.uffd.close()
    assert got.pid == os.getpid()
    assert [region.start for region in got.regions] == [START, START + 4 * PAGE]


def test_the_socket_keeps_its_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.settimeout(123)
    assert "JSON" in refusal(pair, b"nonsense")
    assert ours.gettimeout() == 123


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"nonsense", "not JSON"),
        (b"\xff\xfe\x00]", "not JSON"),
        (b"{}", "not JSON|one JSON array"),
        (b"[]", "at least one region"),
        (b"[1]", "region 0 of the hand-off is not a JSON object"),
        (b'["text"]', "region 0 of the hand-off is not a JSON object"),
        (b"[" * 5000 + b"]" * 5000, "JSON"),
        (b"[" + b"9" * 5000 + b"]", "JSON"),
    ],
)
def test_what_is_no_hand_off(pair: tuple[socket.socket, socket.socket], text: bytes, message: str) -> None:
    import re

    assert re.search(message, refusal(pair, text))


@pytest.mark.parametrize("field", sorted(GOOD))
@pytest.mark.parametrize("value", [None, "4096", 1.5, True, [1], {}, -1, 1 << 64, 10**400, "missing"], ids=str)
def test_wrong_fields_are_named(pair: tuple[socket.socket, socket.socket], field: str, value: Any) -> None:
    entry = dict(GOOD)
    del entry[field]
    if value != "missing":
        entry[field] = value
    text = refusal(pair, json.dumps([GOOD, entry]).encode())
    assert "region 1 of the hand-off" in text
    assert field in text
    assert "must be a number of bytes" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": PAGE + 1}, "multiples of page_size"),
        ({"base_host_virt_addr": START + 8}, "multiples of page_size"),
        ({"size": 0}, "length is 0"),
        ({"page_size": 3}, "page_size is 3"),
        ({"page_size": 0}, "page_size is 0"),
        ({"base_host_virt_addr": (1 << 64) - PAGE}, "wraps around"),
        ({"offset": (1 << 64) - 1}, "shorter"),
    ],
)
def test_impossible_regions_are_named(
    pair: tuple[socket.socket, socket.socket], change: dict[str, int], message: str
) -> None:
    text = refusal(pair, json.dumps([GOOD | change]).encode())
    assert text.startswith("region 0 of the hand-off: ")
    assert message in text


def test_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    text = json.dumps([GOOD]).encode()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        assert "one descriptor, but 0 came" in refusal(pair, text, [])
        with userfaultfd() as fd:
            assert "one descriptor, but more came" in refusal(pair, text, [fd, fd])
            assert "one descriptor, but" in refusal(pair, text, [fd] * 40)
        assert "is not a userfaultfd" in refusal(pair, text, [null])
    finally:
        os.close(null)


def receive_with(pair: tuple[socket.socket, socket.socket], entries: list[dict[str, int]], **limits: Any) -> str:
    """The refusal of a message under these limits."""
    ours, theirs = pair
    with userfaultfd() as fd, no_descriptor_leaks():
        send_raw(theirs, json.dumps(entries).encode(), [fd])
        with pytest.raises(ValueError) as refused:
            handoff.receive(ours, SOURCE, **limits)
    return str(refused.value)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": 4 * PAGE - 1}, f"have {4 * PAGE} bytes; max_bytes permits {4 * PAGE - 1}"),
        ({"max_regions": 1}, "has 2 regions; max_regions permits 1"),
        ({"window": (PAGE, PAGE)}, f"region 0 of the hand-off asks for bytes 0 to {2 * PAGE} of the source"),
        ({"window": (0, 3 * PAGE)}, f"region 1 of the hand-off asks for bytes {2 * PAGE} to {4 * PAGE}"),
    ],
)
def test_a_sender_has_limits(pair: tuple[socket.socket, socket.socket], limits: dict[str, Any], message: str) -> None:
    second = {"base_host_virt_addr": START + 2 * PAGE, "size": 2 * PAGE, "offset": 2 * PAGE, "page_size": PAGE}
    assert message in receive_with(pair, [GOOD, second], **limits)


def test_without_limits_of_its_own_a_hand_off_has_some(pair: tuple[socket.socket, socket.socket]) -> None:
    assert "max_bytes permits" in receive_with(pair, [GOOD | {"size": (1 << 40) + PAGE}])


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_bytes": 0}, ValueError),
        ({"max_regions": -1}, ValueError),
        ({"max_bytes": "1"}, TypeError),
        ({"max_regions": True}, TypeError),
        ({"window": 5}, TypeError),
        ({"window": (1, 2, 3)}, TypeError),
        ({"window": (0, 0)}, ValueError),
        ({"window": (-1, 5)}, ValueError),
    ],
)
def test_limits_that_are_none(
    pair: tuple[socket.socket, socket.socket], limits: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(limits))):
        handoff.receive(pair[0], SOURCE, **limits)


@pytest.mark.parametrize("mode", [None, 3, ["missing"], "other", {}])
def test_modes_that_are_none(pair: tuple[socket.socket, socket.socket], mode: Any) -> None:
    text = refusal(pair, json.dumps([GOOD | {"mode": mode}]).encode())
    assert text.startswith("region 0 of the hand-off: mode is ")
    assert "'missing'" in text


def test_a_descriptor_whose_close_takes_long_holds_nobody_up(pair: tuple[socket.socket, socket.socket]) -> None:
    """A stranger chooses what is closed: here a connection whose peer reads nothing, with SO_LINGER."""
    ours, theirs = pair
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        slow = socket.create_connection(listener.getsockname())
        peer = held.enter_context(listener.accept()[0])
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(bytes(65536))
        with userfaultfd() as fd:
            send_raw(theirs, json.dumps([GOOD]).encode(), [fd, slow.fileno()])
        slow.close()  # another holds it: the message, whose receiver closes the last one
        began = time.monotonic()
        with pytest.raises(ValueError, match="one descriptor, but more came"):
            handoff.receive(ours, SOURCE)
        assert time.monotonic() - began < 5.0


def test_a_userfaultfd_before_its_api_call(pair: tuple[socket.socket, socket.socket]) -> None:
    import ctypes
    import platform

    number = {"x86_64": 323, "aarch64": 282}.get(platform.machine())
    if number is None:
        pytest.skip("the number of userfaultfd(2) is not known here")
    raw = ctypes.CDLL(None).syscall(number, os.O_CLOEXEC | 1)
    try:
        assert "UFFDIO_API was not done" in refusal(pair, json.dumps([GOOD]).encode(), [raw])
    finally:
        os.close(raw)


def test_a_sender_that_hangs_up(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with userfaultfd() as fd, no_descriptor_leaks():
        send_raw(theirs, b'[{"base_host', [fd])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError, match="closed the connection"):
            handoff.receive(ours, SOURCE)


def test_a_message_without_end(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_strangers, "_MOST_BYTES", 1 << 20)
    ours, theirs = pair

    def send_on() -> None:
        with contextlib.suppress(OSError):
            while True:
                theirs.sendall(b"[" + b" " * 65536)

    sender = threading.Thread(target=send_on)
    with no_descriptor_leaks():
        sender.start()
        with pytest.raises(ValueError, match="at most 1048576 bytes"):
            handoff.receive(ours, SOURCE)
        ours.shutdown(socket.SHUT_RDWR)
        sender.join()


@pytest.mark.parametrize("part", [b"", b"[", b'[{"size": 4096'])
def test_a_sender_that_says_no_more(
    pair: tuple[socket.socket, socket.socket], part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_strangers, "_DEADLINE_SECONDS", 0.05)
    ours, theirs = pair
    with userfaultfd() as fd, no_descriptor_leaks():
        if part:
            send_raw(theirs, part, [fd])
        with pytest.raises(TimeoutError):
            handoff.receive(ours, SOURCE)
    assert ours.gettimeout() is None


def test_a_sender_without_credentials_over_a_socketpair(pair: tuple[socket.socket, socket.socket]) -> None:
    assert "the sender's pid is not known" in refusal(pair, json.dumps([GOOD]).encode())


def test_a_socket_of_another_kind() -> None:
    with socket.socket(socket.AF_INET) as sock, pytest.raises(OSError):
        handoff.receive(sock, SOURCE)


def test_send_refuses_what_cannot_be_registered_and_keeps_the_userfaultfd(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, theirs = pair
    memory = Managed(pages=2)
    with pyuffd.Userfaultfd(user_mode_only=True) as uffd:
        with pytest.raises(OSError, match="UFFDIO_REGISTER"):
            handoff.send(theirs, uffd, [(START, PAGE, 0, PAGE)])
        with pytest.raises(ValueError):
            handoff.send(theirs, uffd, [(memory.start, PAGE)])  # type: ignore[list-item]
        assert not uffd.closed
    with pytest.raises(ValueError, match="closed"):
        handoff.send(theirs, uffd, [(memory.start, PAGE, 0, PAGE)])


def a_stray_page_that_the_sender_did_not_tell_of_is_poisoned_child(fd: int, pages: int) -> None:
    memory, uffd, regions = sender(pages)
    uffd.register(memory.start, memory.length)
    with socket.socket(fileno=fd) as sock:
        pyuffd.handoff.send(sock, uffd, regions[:1], register=False)
    tell(memory.touch(0, 2).wrong_pages)
    faulthandler.disable()
    memory.toucher(memory.pages - 1, 1).join()


@pytest.mark.requires_poison
def test_a_stray_page_that_the_sender_did_not_tell_of_is_poisoned(pair: tuple[socket.socket, socket.socket]) -> None:
    """It has no source, so its toucher gets SIGBUS instead of sleeping for ever or reading a zero."""
    ours, theirs = pair
    with Child(
        a_stray_page_that_the_sender_did_not_tell_of_is_poisoned_child, theirs.fileno(), 10, sockets=[theirs]
    ) as child:
        got = handoff.receive(ours, Managed(pages=10).source)
        with pyuffd.serve(got.uffd, got.regions, pid=got.pid, fault_around=1) as target:
            assert child.hear() == 0
            child.finish(-7)
            until(lambda: target.stats().poisoned == 1)  # counted after the wake


def test_a_mode_that_the_sender_does_not_have(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    memory = pyuffd.Mapping(2 * PAGE, shared=True)
    handoff.send(theirs, pyuffd.Userfaultfd(), [(memory.address, memory.length, 0, PAGE)], mode="missing+minor")
    with pytest.raises(
        ValueError, match=r"region 0 of the hand-off: mode is 'missing\+minor', but receive\(\) was told"
    ):
        handoff.receive(ours, SOURCE, mode="missing")


def a_receiver_that_hangs_up_at_once_has_it_all_child() -> None:
    ours, theirs = socket.socketpair()
    memory = Managed(pages=2)
    came: list[handoff.Handoff] = []

    class Prompt(socket.socket):
        def sendmsg(self, *arguments: Any) -> int:
            sent = super().sendmsg(*arguments)
            came.append(handoff.receive(theirs, memory.source))
            theirs.close()
            return sent

    handoff.send(Prompt(fileno=ours.detach()), pyuffd.Userfaultfd(), [(memory.start, memory.length, 0, PAGE)])
    (got,) = came
    with pyuffd.serve(got.uffd, got.regions, pid=got.pid):
        memory.touch()
    tell(memory.states())


def test_a_receiver_that_hangs_up_at_once_has_it_all() -> None:
    assert run_child(a_receiver_that_hangs_up_at_once_has_it_all_child) == ["right", "right"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(GOOD)) | st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.binary(min_size=1, max_size=60), _JSON.map(lambda value: json.dumps(value).encode())))
def test_arbitrary_text_is_a_value_error_and_leaks_nothing(text: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, userfaultfd() as fd, no_descriptor_leaks():
        send_raw(theirs, text, [fd])
        theirs.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ValueError, ConnectionError):
            handoff.receive(ours, SOURCE)


def the_manager_may_exit_at_once_and_nothing_is_lost_child() -> None:
    ours, theirs = socket.socketpair()
    memory = Managed(pages=4)
    pyuffd.handoff.send(theirs, pyuffd.Userfaultfd(user_mode_only=True), [(memory.start, memory.length, 0, PAGE)])
    ours.close()
    theirs.close()
    tell(set(memory.states()) == {"zero"})


def test_the_manager_may_exit_at_once_and_nothing_is_lost() -> None:
    """See test_exit.py; here the descriptor in flight, which nobody received, is released with its socket."""
    assert run_child(the_manager_may_exit_at_once_and_nothing_is_lost_child) is True


def test_what_could_not_be_sent_is_not_registered(pair: tuple[socket.socket, socket.socket]) -> None:
    memory = Managed(pages=2)
    ours, theirs = pair
    theirs.close()
    with pyuffd.Userfaultfd(user_mode_only=True) as uffd:
        with pytest.raises(BrokenPipeError):
            handoff.send(ours, uffd, [(memory.at(0), PAGE, 0, PAGE), (memory.at(1), PAGE, PAGE, PAGE)])
        assert memory.states() == ["zero", "zero"]
        with pytest.raises(ValueError, match="has 2 numbers"):
            handoff.send(ours, uffd, [(memory.start, PAGE)])  # type: ignore[list-item]

"""Wrong types and values: each public callable refuses them with a sentence that names the argument."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyuffd

# Of no type that any argument has, or of one that only some have.
WRONG: tuple[Any, ...] = (object(), "nonsense", -1, 1.5, True, None, b"bytes", [object()], {}, 1 << 70)


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Constructors, functions, and methods of an open userfaultfd and a source."""
    for name in ("Userfaultfd", "Mapping", "Region", "MemorySource", "FileSource", "CallableSource", "SharedImage"):
        yield name, getattr(pyuffd, name)
    yield "Region.of", pyuffd.Region.of
    yield "Manager", pyuffd.Manager
    for name in ("serve", "lazy_array", "touch", "target_of"):
        yield name, getattr(pyuffd, name)
    yield "handoff.send", pyuffd.handoff.send
    yield "handoff.receive", pyuffd.handoff.receive
    uffd = pyuffd.Userfaultfd()
    for name in ("register", "unregister", "wake", "copy", "zeropage", "writeprotect", "continue_", "poison", "move"):
        yield f"Userfaultfd.{name}", getattr(uffd, name)
    yield "Userfaultfd.scan_written", uffd.scan_written
    yield "Source.read", pyuffd.ZeroSource().read


def good(name: str) -> Any:
    """A value that the argument may have, so that another one is the wrong one."""
    return {
        "length": 4096, "start": 0, "source": pyuffd.ZeroSource(), "destination": 0, "protect": False, "path": "absent",
        "read": lambda offset, length: bytes(length), "buffer": bytes(4096), "memory": bytearray(4096),
        "dtype": "u1", "shape": 1, "offset": 0, "uffd": pyuffd.Userfaultfd(), "regions": [],
    }.get(name)  # fmt: skip


@pytest.mark.parametrize(("name", "function"), [pytest.param(*each, id=each[0]) for each in callables()])
def test_wrong_arguments_get_a_sentence(name: str, function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    required = [each.name for each in parameters.values() if each.default is each.empty and each.name != "self"]
    for parameter in parameters:
        if parameter in ("self", "sock"):
            continue
        for wrong in WRONG:
            arguments = {each: good(each) for each in required} | {parameter: wrong}
            try:
                function(**arguments)
            except (TypeError, ValueError, OSError, OverflowError, IndexError, RuntimeError, MemoryError) as error:
                text = str(error)
            else:
                continue
            assert text, (name, parameter, wrong)
            assert not re.search(r"uffd::|incompatible function arguments|pybind|std::|py::", text), (parameter, text)


@pytest.mark.parametrize("name", sorted(set(pyuffd.__all__) - {"__version__", "handoff"}))
def test_everything_public_says_what_it_is(name: str) -> None:
    found = getattr(pyuffd, name)
    if not callable(found) or not isinstance(found, type):
        return
    assert inspect.getdoc(found), name
    for attribute, value in vars(found).items():
        if not attribute.startswith("_") and (callable(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_help_shows_signatures_and_types() -> None:
    signature = inspect.signature(pyuffd.Userfaultfd.copy)
    assert list(signature.parameters) == ["self", "destination", "source", "length", "wake", "write_protect"]
    assert "destination: int" in (inspect.getdoc(pyuffd.Userfaultfd.copy) or "")
    assert list(inspect.signature(pyuffd.FileSource).parameters) == ["path", "direct"]
    options = inspect.signature(pyuffd.serve).parameters
    assert options["ending"].default == "auto"
    assert "ending: How to let go" in (inspect.getdoc(pyuffd.serve) or "")
    assert "ending: How to let go" in (inspect.getdoc(pyuffd.Manager.add) or "")


def test_an_option_that_does_not_exist_is_told() -> None:
    options: Any = {"end": "auto"}
    with pytest.raises(TypeError, match=r"serve\(\) has no option 'end': did you mean 'ending'\?"):
        pyuffd.serve(pyuffd.Userfaultfd(), [], **options)

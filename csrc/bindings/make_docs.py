"""Writes the docstrings of the extension's public objects as a C++ header, from the stub that also types them.

make_docs.py STUB HEADER
"""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

_HEAD = """// Made by make_docs.py from pyuffd/_core.pyi, where they are written.
#pragma once

#include <string_view>

namespace uffd::bindings {

struct Docstring {
  std::string_view name;
  const char* text;
};

inline constexpr Docstring kDocstrings[] = {
"""
_TAIL = """};

// That of "Class", "Class.method" or "function". Does not compile where the stub has none.
consteval const char* doc(std::string_view name) {
  for (const Docstring& each : kDocstrings) {
    if (each.name == name) return each.text;
  }
  throw "the stub has no such object, or it has no docstring";
}

}  // namespace uffd::bindings
"""

_Function = ast.FunctionDef


def main(stub: Path, header: Path) -> None:
    """Write it, if it differs: what includes it is then compiled again."""
    entries = "".join(
        f'    {{"{name}", R"doc({text})doc"}},\n' for name, text in _docstrings(ast.parse(stub.read_text()))
    )
    text = _HEAD + entries + _TAIL
    if not header.exists() or header.read_text() != text:
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)


def _docstrings(module: ast.Module) -> Iterator[tuple[str, str]]:
    for node in module.body:
        if isinstance(node, _Function) and (text := ast.get_docstring(node)):
            yield node.name, _with_signature(node.name, node, text, bound=False)
        elif isinstance(node, ast.ClassDef):
            yield from _of_class(node)


def _of_class(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    functions = [each for each in node.body if isinstance(each, _Function)]
    made = next((each for each in functions if each.name == "__init__"), None)
    text = ast.get_docstring(node)
    if text:
        yield node.name, _with_signature(node.name, made, text, bound=True) if made else text
    if made:
        yield f"{node.name}.__init__", _with_signature("__init__", made, "See help(type(self)).", bound=True, keep=True)
    for each in functions:
        text = ast.get_docstring(each)
        decorators = {ast.unparse(one) for one in each.decorator_list}
        if text and "property" in decorators:
            yield f"{node.name}.{each.name}", text
        elif text:
            static = "staticmethod" in decorators
            yield f"{node.name}.{each.name}", _with_signature(each.name, each, text, bound=not static, keep=True)


def _with_signature(name: str, node: _Function, text: str, *, bound: bool, keep: bool = False) -> str:
    """Put the signature before the text as CPython reads it (``__text_signature__``), and the types behind it.

    Args:
        name: What is called.
        node: Its definition.
        text: Its docstring.
        bound: Whether its first argument is self.
        keep: Whether the signature names self.
    """
    plain, typed = _arguments(node.args, bound, types=False), _arguments(node.args, bound, types=True)
    heading = ", ".join((["self"] if bound and keep else []) + plain)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    types = f"\n\nTypes:\n    ({', '.join(typed)}){returns}" if typed or returns else ""
    return f"{name}({heading})\n--\n\n{inspect.cleandoc(text)}{types}"


def _arguments(arguments: ast.arguments, bound: bool, *, types: bool) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(every) - len(arguments.defaults)) + list(arguments.defaults)
    told = [_argument(each, default, types) for each, default in zip(every, defaults, strict=True)]
    if bound:
        told = told[1:]
    if arguments.vararg:
        told.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        told.append("*")
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return told + [_argument(each, default, types) for each, default in pairs]


def _argument(argument: ast.arg, default: ast.expr | None, types: bool) -> str:
    text = argument.arg
    if types and argument.annotation:
        text += f": {ast.unparse(argument.annotation)}"
    if default is None:
        return text
    equals = " = " if types and argument.annotation else "="
    return f"{text}{equals}{ast.unparse(default)}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

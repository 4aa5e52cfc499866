"""Compiles modules with the Python that runs this: bundle.py ROOT FOLDER, from the JSON on stdin that pack.py writes.

A member of the archive for each part (parts.py) goes to FOLDER, marshalled: a stamp, and `[(module, is it a package?, code)]`
in the order in which they can be run. Of the parts "commands" and "rest", of which most is not needed when something is, each
code is marshalled once more. Around the parts that a start begins with there is what loader.py needs, with its code and that of
gofer/__main__.py.

Left out of the code is what nobody reads: docstrings, annotations, and the import of `__future__`, which takes 0.2 ms. What is
made depends on nothing but names and text of the sources and the version of Python (given PYTHONHASHSEED=0: Python 3.9 and
3.10 order constant sets by hash).
"""

import __future__

import ast
import json
import marshal
import os
import sys
from types import CodeType
from typing import Any

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def bundle(
    root: str, folder: str, stamp: str, files: "dict[str, str]", parts: "dict[str, list[str]]", at_once: object
) -> None:
    """stamp: what tells this build's parts from another's. files: of the modules, below root."""
    index = {name: part for part, names in parts.items() if part != "launch" for name in names}
    main, loader = _compile(root, "gofer/__main__.py"), _compile(root, "onefile/loader.py")
    for part, names in parts.items():
        codes = [(name, files[name].endswith("/__init__.py"), _compile(root, files[name])) for name in names]
        made: tuple[object, ...] = (stamp, codes)
        if part in ("commands", "rest"):
            made = (stamp, [(name, package, _dump(code)) for name, package, code in codes])
        elif part == "start":
            made = (loader, main, index, at_once, *made)
        elif part == "launch":
            made = (loader, main, dict.fromkeys(names, part), {}, *made)
        with open(os.path.join(folder, part), "wb") as file:
            file.write(_dump(made))


def source(root: str, stamp: str, files: "dict[str, str]") -> bytes:
    """The part "source", for whatever Python: what "start" has, with all modules, as text."""
    texts = [(name, file.endswith("/__init__.py"), _read(root, file)) for name, file in files.items()]
    loader, main = _read(root, "onefile/loader.py"), _read(root, "gofer/__main__.py")
    return marshal.dumps((loader, main, dict.fromkeys(files, "source"), {}, stamp, texts), 2)


def _read(root: str, file: str) -> str:
    with open(os.path.join(root, file), encoding="utf-8") as text:
        return text.read()


def _compile(root: str, file: str) -> CodeType:
    tree = ast.parse(_read(root, file), file)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)) and ast.get_docstring(node, clean=False) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
        if isinstance(node, _FUNCTIONS):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    tree.body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(tree, file, "exec", flags=flags, dont_inherit=True, optimize=0)
    return with_short_tables(code) if (3, 11) <= sys.version_info < (3, 14) else code  # of which it was seen


def with_short_tables(code: Any) -> CodeType:
    """The same code, with a table of lines (Objects/locations.md of CPython) that has an entry for up to eight words of a line.

    CPython 3.11 writes one for each instruction, and goes through them from the beginning for each function that an exception
    leaves: a third of what an Error reply costs above another.
    """
    table, line = bytearray(), code.co_firstlineno
    for words, number in _lines(code):
        left = words
        while left:
            part = min(left, 8)
            left -= part
            if number is None:
                table.append(0x80 | 15 << 3 | part - 1)
                continue
            table.append(0x80 | 13 << 3 | part - 1)
            further, line = number - line, number
            rest = -further << 1 | 1 if further < 0 else further << 1
            while rest > 63:
                table.append(64 | rest & 63)
                rest >>= 6
            table.append(rest)
    consts = tuple(with_short_tables(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    short: CodeType = code.replace(co_consts=consts, co_linetable=bytes(table))
    if _lines(short) != _lines(code):
        raise ValueError(f"this Python reads a table of lines otherwise: {code.co_filename}, {code.co_name}")
    return short


def _lines(code: Any) -> "list[tuple[int, Any]]":
    """How many words of code belong to each line, one after the other."""
    runs: list[tuple[int, Any]] = []
    for start, end, line in code.co_lines():
        words = (end - start) // 2
        if runs and runs[-1][1] == line:
            words += runs.pop()[0]
        runs.append((words, line))
    return runs


def _dump(made: Any) -> bytes:
    # marshal marks an object for sharing if something else happens to refer to it at that moment. What was freshly
    # loaded is referred to by nothing else, so the second dump is the same every time.
    return marshal.dumps(marshal.loads(marshal.dumps(made)))


if __name__ == "__main__":
    bundle(sys.argv[1], sys.argv[2], **json.load(sys.stdin))

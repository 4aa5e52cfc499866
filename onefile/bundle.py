"""Compiles modules with the Python that runs this: bundle.py ROOT FILE..., the bundle goes to stdout.

A bundle is the marshalled pair of loader.py's code and `{module: (is it a package?, marshalled code)}`, for start.py. It depends
on nothing but names and text of the sources and the version of Python (given PYTHONHASHSEED=0: Python 3.9
and 3.10 order constant sets by hash).
"""

import marshal
import os
import sys
from types import CodeType


def bundle(root: str, files: list[str]) -> bytes:
    """`files` are paths below `root`, such as gofer/wire.py."""
    modules = {}
    for file in sorted(files):
        name, is_package = os.path.splitext(file)[0].replace("/", "."), False
        if name.endswith(".__init__"):
            name, is_package = name[: -len(".__init__")], True
        modules[name] = (is_package, _dump(_compile(root, file)))
    return marshal.dumps((_dump(_compile(root, "onefile/loader.py")), modules), 2)


def _compile(root: str, file: str) -> CodeType:
    with open(os.path.join(root, file), "rb") as source:
        code: CodeType = compile(source.read(), file, "exec", dont_inherit=True, optimize=0)
    return code


def _dump(code: CodeType) -> bytes:
    # marshal marks an object for sharing if something else happens to refer to it at that moment. A freshly
    # loaded code object is referred to by nothing else, so the second dump is the same every time.
    return marshal.dumps(marshal.loads(marshal.dumps(code)))


if __name__ == "__main__":
    sys.stdout.buffer.write(bundle(sys.argv[1], sys.argv[2:]))

"""Compiles modules with the Python that runs this: bundle.py ROOT FILE..., the bundle goes to stdout.

A bundle is the marshalled `{module: (is it a package?, marshalled code)}`, for onefile/start.py. It depends
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
        with open(os.path.join(root, file), "rb") as source:
            code = compile(source.read(), file, "exec", dont_inherit=True, optimize=0)
        modules[name] = (is_package, _dump(code))
    return marshal.dumps(modules, 2)


def _dump(code: CodeType) -> bytes:
    # marshal marks an object for sharing if something else happens to refer to it at that moment. A freshly
    # loaded code object is referred to by nothing else, so the second dump is the same every time.
    return marshal.dumps(marshal.loads(marshal.dumps(code)))


if __name__ == "__main__":
    sys.stdout.buffer.write(bundle(sys.argv[1], sys.argv[2:]))

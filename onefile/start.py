"""First half of the one-file program's `__main__.py`; gofer/__main__.py is the second.

The file is a zip archive behind a `#!` line. Nothing is ever unpacked: all modules, compiled for this version
of Python, stand in one member of the archive, which is read once, here. So start-up compiles nothing but this
page, which is why loader.py is not part of it, and an upgrade that replaces the file under a running server
cannot mix old modules with new ones. (zipimport, which opens the archive for every module, would take 2 ms more.)
What starts containers has a member of its own, with what it needs of all that: another 1 ms. A Python whose byte
code is not there imports the source.

sys.argv[0] is the archive, both for `./gofer` (the `#!` line sees to it) and for `python3 gofer`.
This runs, as far as the version check that follows, on every Python 3.
"""

import marshal
import sys
import zipimport

# Loaded in every CPython; importlib, which gives it out too, would have to be imported first.
from _frozen_importlib_external import MAGIC_NUMBER


def start(archive: str) -> None:
    def read(kind: str) -> "tuple[bytes, dict[str, tuple[bool, bytes]]]":
        member = "site-packages/%d.%s" % (int.from_bytes(MAGIC_NUMBER[:2], "little"), kind)
        return marshal.loads(zipimport.zipimporter(archive).get_data(member))  # type: ignore[no-any-return]

    try:
        loader, modules = read("launch" if sys.argv[1:2] == ["runsc"] else "bundle")
    except OSError:
        sys.path.insert(0, archive + "/site-packages")
    else:
        names = {}  # type: dict[str, object]
        exec(marshal.loads(loader), names)
        names["install"](archive, modules, read)  # type: ignore[operator]


start(sys.argv[0])

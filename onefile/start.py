"""The one-file program's `__main__.py`.

The file is a zip archive behind a `#!` line. Nothing is ever unpacked: all modules, compiled for this version of Python, stand in
a few members of the archive (parts.py), each of which is read once. So start-up compiles nothing but this page, which is why
loader.py and gofer/__main__.py are not part of it. (zipimport, which opens the archive for every module, would
take 2 ms more.) What starts containers has a member of its own, with what it needs of all that: another 1 ms. A Python
whose byte code is not there takes the source, which is a part like the others.

sys.argv[0] is the archive, both for `./gofer` (the `#!` line sees to it) and for `python3 gofer`.
This runs, as far as the version check that follows, on every Python 3.
"""

import marshal
import sys
import zipimport

# Loaded in every CPython; importlib, which gives it out too, would have to be imported first.
from _frozen_importlib_external import MAGIC_NUMBER


def start(archive: str) -> None:
    def read(part: str) -> "tuple[object, ...]":
        name = "site-packages/" + (part if part == "source" else "%d.%s" % (version, part))
        return marshal.loads(get_data(name))  # type: ignore[no-any-return]

    version = int.from_bytes(MAGIC_NUMBER[:2], "little")
    get_data = zipimport.zipimporter(archive).get_data
    part = "launch" if sys.argv[1:2] == ["runsc"] else "start"
    try:
        contents = read(part)
    except OSError:
        part = "source"
        contents = read(part)
    names = {}  # type: dict[str, object]
    exec(contents[0], names)  # type: ignore[arg-type]
    main = names["install"](archive, read, part, contents)  # type: ignore[operator]
    exec(main, {"__name__": "__main__", "__package__": ""})


start(sys.argv[0])

"""First half of the one-file program's `__main__.py`; the checkout's `__main__.py` is the second.

The file is a zip archive behind a `#!` line. Nothing is ever unpacked: all modules, compiled for this version
of Python, stand in one member of the archive, which is read once, here. So start-up compiles nothing, and an
upgrade that replaces the file under a running server cannot mix old modules with new ones. (zipimport, which
opens the archive for every module, would take 2 ms more.) A Python whose byte code is not there imports the
source.

sys.argv[0] is the archive, both for `./gofer` (the `#!` line sees to it) and for `python3 gofer`.
This runs, as far as the version check that follows, on every Python 3.
"""

import marshal
import sys
import zipimport

# Loaded in every CPython; importlib, which gives out the same two, would have to be imported first.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER


class Bundle:
    """Finder and loader, as in importlib.abc, of `{name: (is it a package?, marshalled code)}`."""

    def __init__(self, archive: str, modules: "dict[str, tuple[bool, bytes]]") -> None:
        self.archive = archive
        self.modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name not in self.modules:
            return None
        is_package = self.modules[name][0]
        tail = "/__init__.py" if is_package else ".py"
        origin = self.archive + "/site-packages/" + name.replace(".", "/") + tail
        spec = ModuleSpec(name, self, origin=origin, is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: "object") -> None:
        name = module.__name__  # type: ignore[attr-defined]
        exec(marshal.loads(self.modules[name][1]), module.__dict__)
        del self.modules[name]  # not needed again: gives the memory back


def start(archive: str) -> None:
    try:
        member = "site-packages/%d.bundle" % int.from_bytes(MAGIC_NUMBER[:2], "little")
        modules = marshal.loads(zipimport.zipimporter(archive).get_data(member))
    except OSError:
        sys.path.insert(0, archive + "/site-packages")
    else:
        sys.meta_path.insert(0, Bundle(archive, modules))


start(sys.argv[0])

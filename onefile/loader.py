"""Imports modules from a bundle (bundle.py). Compiled, it stands in the bundle itself, and start.py runs it."""

import marshal
import sys

# Loaded in every CPython; importlib, which gives it out too, would have to be imported first.
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    Modules = dict[str, tuple[bool, bytes]]


class Bundle:
    """Finder and loader, as in importlib.abc, of `{name: (is it a package?, marshalled code)}`."""

    def __init__(self, archive: str, modules: "Modules", read: "Callable[[str], tuple[bytes, Modules]]") -> None:
        self.archive = archive
        self.modules = modules
        self.read = None if "gofer.cli" in modules else read  # of what is not in modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name not in self.modules and name.startswith("gofer.") and self.read:
            self.modules, self.read = self.read("bundle")[1], None  # `gofer runsc` with words that start no container
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


def install(archive: str, modules: "Modules", read: "Callable[[str], tuple[bytes, Modules]]") -> None:
    sys.meta_path.insert(0, Bundle(archive, modules, read))

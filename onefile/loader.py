"""Imports modules from the archive's parts (bundle.py). It stands, compiled, in the part that start.py reads, and is run by it.

With the source, for a Python that has no other part, as far as the version check in gofer/__main__.py it runs on every Python 3.
"""

import marshal
import sys

# Loaded in every CPython; importlib, which gives it out too, would have to be imported first.
from _frozen_importlib import ModuleSpec

_ESTALE = 116  # errno.ESTALE; the module would have to be imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, Callable, Union

    Code = Union[CodeType, bytes, str]  # bytes: marshalled; str: the source
    Part = list[tuple[str, bool, Code]]
    Read = Callable[[str], Any]  # a part by its name, as it was written


class Bundle:
    """Finder and loader, as in importlib.abc.

    index: module -> the part that it is in. at_once: module -> parts that are needed whole with it. `find_spec` runs what is
    in those itself: importlib's way of doing it takes 40 us for each module, and a server has sixty.
    """

    def __init__(self, archive: str, read: "Read", index: "dict[str, str]", at_once: "dict[str, list[str]]") -> None:
        self.archive = archive
        self._read = read
        self._index = index
        self._at_once = at_once
        self._stamp = ""
        self._codes = {}  # type: dict[str, tuple[bool, Code]]  # of what was read and has not been run
        self._there = set()  # type: set[str]  # the parts that were read

    def add(self, part: str, stamp: str, modules: "Part") -> "Part":
        """Returns its modules. OSError where it is not of the program whose start was read, but of one in its place."""
        self._stamp = self._stamp or stamp
        if stamp != self._stamp:
            raise OSError(_ESTALE, "the program's file was replaced while it started; start it again")
        self._there.add(part)
        for name, is_package, code in modules:
            self._codes[name] = is_package, code
        return modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name not in self._index and name.startswith("gofer.") and "launch" in self._there and "start" not in self._there:
            # `gofer runsc` with words that start no container
            _, _, self._index, self._at_once, *part = self._read("start")
            self.add("start", *part)
        if name not in self._index:
            return None
        for part in self._at_once.get(name, ()):
            self._run(part, name)
        self._fetch(self._index[name])
        is_package = self._codes[name][0]
        spec = ModuleSpec(name, self, origin=self._origin(name, is_package), is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: "object") -> None:
        self._exec(module.__name__, module.__dict__)  # type: ignore[attr-defined]

    def _exec(self, name: str, namespace: "dict[str, object]") -> None:
        code = self._codes.pop(name)[1]  # not needed again: gives the memory back
        if isinstance(code, bytes):
            code = marshal.loads(code)
        elif isinstance(code, str):
            code = compile(code, str(namespace["__file__"]), "exec", dont_inherit=True)
        exec(code, namespace)

    def _fetch(self, part: str) -> "Part":
        if part in self._there:
            return []
        return self.add(part, *self._read(part))

    def _run(self, part: str, wanted: str) -> None:
        """Run what is in a part that was not read yet, but for the module that importlib is about to run."""
        new = []
        for name, is_package, _ in self._fetch(part):
            if name == wanted or name in sys.modules:  # in another part, too
                continue
            above, _, tail = name.rpartition(".")
            module = type(sys)(name)
            module.__file__ = self._origin(name, is_package)
            module.__loader__ = self  # type: ignore[assignment]
            module.__package__ = name if is_package else above
            module.__spec__ = ModuleSpec(name, self, origin=module.__file__, is_package=is_package)  # type: ignore[arg-type]
            if is_package:
                module.__path__ = []
            sys.modules[name] = module
            new.append((above, tail, module))
        for above, tail, module in new:
            if above not in sys.modules:  # it is in a part that was read for another of its modules, and not run
                __import__(above)
            setattr(sys.modules[above], tail, module)
        for _, _, module in new:
            self._exec(module.__name__, module.__dict__)

    def _origin(self, name: str, is_package: bool) -> str:
        return self.archive + "/site-packages/" + name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


def install(archive: str, read: "Read", name: str, contents: "tuple[Any, ...]") -> "Union[CodeType, str]":
    """contents: of the part of that name, as bundle.py wrote it. Returns gofer/__main__.py."""
    _, main, index, at_once, *part = contents
    bundle = Bundle(archive, read, index, at_once)
    bundle.add(name, *part)
    sys.meta_path.insert(0, bundle)
    return main  # type: ignore[no-any-return]

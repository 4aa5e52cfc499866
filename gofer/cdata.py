"""What is used of `ctypes`, made of its C half: to import all of it takes 1.5 ms, a fifteenth of a server's start.

Each name means what it means there, on a machine with pointers and longs of 64 bits; all that there are system call numbers for
(sys.py) are such. A `Library` is what CDLL is, but for functions by attribute.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    addressof,
    byref,
    dlopen,
    get_errno,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import c_char, c_char_p, c_int, c_long, c_uint, c_ulong, c_ushort, c_void_p
    from typing import Any
else:
    from _ctypes import _SimpleCData

    class c_char(_SimpleCData):
        _type_ = "c"

    class c_char_p(_SimpleCData):
        _type_ = "z"

    class c_int(_SimpleCData):
        _type_ = "i"

    class c_long(_SimpleCData):
        _type_ = "l"

    class c_uint(_SimpleCData):
        _type_ = "I"

    class c_ulong(_SimpleCData):
        _type_ = "L"

    class c_ushort(_SimpleCData):
        _type_ = "H"

    class c_void_p(_SimpleCData):
        _type_ = "P"


c_int32, c_uint16, c_uint32 = c_int, c_ushort, c_uint
c_int64 = c_ssize_t = c_long
c_uint64 = c_size_t = c_ulong


class Library:
    """A shared library; None: the program with all that it is linked with. flags: FUNCFLAG_*, of each of its functions.

    FUNCFLAG_USE_ERRNO: `get_errno` tells errno as it was after the call. FUNCFLAG_PYTHONAPI: the interpreter's lock is kept.
    """

    def __init__(self, name: str | None, flags: int) -> None:
        class Function(CFuncPtr):
            _flags_ = flags
            _restype_ = c_int

        self._handle = dlopen(name, 0)  # type: ignore[arg-type]
        self._function = Function

    def __getitem__(self, name: str) -> Any:
        """A fresh function object; AttributeError where there is none."""
        return self._function((name, self))  # type: ignore[arg-type]


__all__ = [
    "FUNCFLAG_CDECL", "FUNCFLAG_PYTHONAPI", "FUNCFLAG_USE_ERRNO", "Library", "Structure", "addressof", "byref", "c_char",
    "c_char_p", "c_int", "c_int32", "c_int64", "c_long", "c_size_t", "c_ssize_t", "c_uint", "c_uint16", "c_uint32", "c_uint64",
    "c_ulong", "c_ushort", "c_void_p", "get_errno", "sizeof",
]  # fmt: skip

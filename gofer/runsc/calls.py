"""The few calls of the C library that the launcher makes, bound without the `ctypes` package.

Every start of a container waits for the launcher, and importing `ctypes` is 2.5 of its 16 ms. `_ctypes` is the C half of
it, and loads in 0.2. gofer.sys, for servers, has hundreds of bindings that nobody needs here.
"""

from __future__ import annotations

from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno
from posix import strerror, uname

__all__ = ["MACHINE", "addressof", "prctl", "ptrace"]

MACHINE = uname().machine
# machine: number of ptrace(2), of which the C library's own wrapper differs from the kernel in what it returns
_PTRACE = {"x86_64": 101, "aarch64": 117}


class Byte(_SimpleCData):  # type: ignore[type-arg]
    """`(Byte * n)()` is memory of n bytes, with an address."""

    _type_ = "c"


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO


_library = dlopen(None, 0)  # type: ignore[arg-type]
_syscall, _prctl = _Function(dlsym(_library, "syscall")), _Function(dlsym(_library, "prctl"))
_syscall.argtypes = _prctl.argtypes = (_Long,) * 5
_syscall.restype, _prctl.restype = _Long, _Int


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    """ptrace(2) as the kernel has it: what is peeked goes to where data points. OSError."""
    if _syscall(_PTRACE[MACHINE], request, tid, address, data) == -1:
        _raise_errno()


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """prctl(2). OSError."""
    if _prctl(option, first, second, 0, 0) == -1:
        _raise_errno()


def _raise_errno() -> None:
    code = get_errno()
    raise OSError(code, strerror(code))

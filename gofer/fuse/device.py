"""/dev/fuse and mount(2): what becomes a file system of the kernel's, and what is taken away again."""

from __future__ import annotations

import contextlib
import os
import stat
from errno import EACCES, EBUSY, ENODEV, ENOENT, ENXIO, EPERM

from gofer import Failure, failure
from gofer.cdata import c_ulong
from gofer.fuse import kernel
from gofer.fuse.crew import WRITE_SIZE
from gofer.sys import get_errno, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.state import FileSystem

_DEVICE = "/dev/fuse"
_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8
FLAGS = {"ro": 1, "noexec": 8, "sync": 16, "noatime": 1024, "nodiratime": 2048}  # of mount(2)
_PAGE = 4096
_FLAGS = (
    kernel.ASYNC_READ | kernel.ATOMIC_O_TRUNC | kernel.BIG_WRITES | kernel.AUTO_INVAL_DATA | kernel.DO_READDIRPLUS
    | kernel.ASYNC_DIO | kernel.PARALLEL_DIROPS | kernel.MAX_PAGES | kernel.CACHE_SYMLINKS
    | kernel.HANDLE_KILLPRIV_V2 | kernel.INIT_EXT
)  # fmt: skip


def open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        remedy = "load the kernel's module (modprobe fuse)"
        if error.errno in (EACCES, EPERM):
            remedy = "who may mount may open it: in a container, it has to be let in (--device /dev/fuse)"
        elif error.errno not in (ENOENT, ENODEV, ENXIO):
            remedy = ""
        raise failure(f"cannot open {_DEVICE}", error, remedy) from None


def mount(place: str, source: str, kind: int, options: list[str], flags: int = 0) -> int:
    """Returns the fd of /dev/fuse. kind: the type of the root, stat.S_IF*."""
    if os.geteuid():
        return _by_fusermount(place, source, options, flags)
    device = open_device()
    words = [f"fd={device}", f"rootmode={kind:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}", *options]
    function = libc["mount"]
    flags |= _MS_NOSUID | _MS_NODEV
    if function(os.fsencode(source), os.fsencode(place), b"fuse.gofer", c_ulong(flags), ",".join(words).encode()):
        code = get_errno()
        error = OSError(code, os.strerror(code))
        remedy = "root may mount, where a container does not take that from him (CAP_SYS_ADMIN)" if code == EPERM else ""
        raise failure(f"cannot mount on {place}", error, remedy)
    return device


def _by_fusermount(place: str, source: str, options: list[str], flags: int) -> int:
    """A set-user-id program mounts for users, and passes the fd (fuse(8))."""
    program = _fusermount()
    if program is None:
        raise Failure(
            f"cannot mount on {place}: only root may, and others by fusermount3, which is not there: install fuse3, or be root"
        )
    import array
    import socket
    import subprocess

    words = [f"fsname={source}", "subtype=gofer", *options, *(word for word, bit in FLAGS.items() if flags & bit)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(words), "--", place], env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip().replace("\n", "; ").replace("fusermount3: ", "")
            raise Failure(f"cannot mount on {place}: {why or 'fusermount3 failed'}; the directory must be yours")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i", ancillary[0][2][:4])
    return fds[0]


def _fusermount() -> str | None:
    import shutil

    return shutil.which("fusermount3") or shutil.which("fusermount")


def unmount(place: str, lazy: bool, force: bool = False) -> None:
    """By whoever may. lazy: from sight at once, also where it is in use. force: what waits there fails, where root says so."""
    try:
        umount(place, UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0) | (_MNT_FORCE if force else 0))
        return
    except PermissionError:
        program = _fusermount()
        if program is None:
            raise
    import subprocess

    done = subprocess.run([program, "-u", *(["-z"] if lazy else []), "--", place], stderr=subprocess.PIPE)
    if done.returncode:
        busy = b"busy" in done.stderr
        raise OSError(EBUSY if busy else EPERM, done.stderr.decode("utf-8", "replace").strip() or "fusermount3 -u failed")


def read_ahead(number: str, size: int) -> None:
    """How many bytes the kernel reads ahead of who reads one after the other; where we may say so."""
    with contextlib.suppress(OSError), open(f"/sys/class/bdi/{number}/read_ahead_kb", "w") as kilobytes:
        kilobytes.write(f"{size >> 10}")


def umount(place: str, flags: int) -> None:
    if libc["umount2"](os.fsencode(place), flags):
        code = get_errno()
        raise OSError(code, os.strerror(code))


def check_place(place: str, kind: int) -> None:
    """What is mounted on must be of the same type as what is mounted, and a directory empty, so that nothing is hidden unseen."""
    try:
        found = os.stat(place)
        full = stat.S_ISDIR(found.st_mode) and bool(os.listdir(place))
    except OSError as error:
        raise failure(f"cannot mount on {place}", error, "give a directory that is there and answers") from None
    if stat.S_ISDIR(kind) != stat.S_ISDIR(found.st_mode):
        wanted = "a directory" if stat.S_ISDIR(kind) else "a regular file, as what is served is one"
        raise Failure(f"cannot mount on {place}: it is not {wanted}; give one that is")
    if number_at(place):
        raise Failure(f"cannot mount on {place}: something is mounted there already; unmount it (gofer umount), or give another")
    if full:
        raise Failure(f"cannot mount on {place}: the directory is not empty; give an empty one")


def number_at(place: str) -> str:
    """The number, "major:minor", of what is mounted there, on top; "": nothing. place: without symbolic links."""
    found = [number for number, where, _ in mounts() if where == place]
    return found[-1] if found else ""


def mounts() -> list[tuple[str, str, str]]:
    """(device "major:minor", place, type) of each mount that this process sees, in order."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            words = before.split(" ")
            found.append((words[2], _unescaped(words[4]), after.split(" ")[0]))
    return found


def _unescaped(word: str) -> str:
    for code in ("\\040", "\\011", "\\012", "\\134"):
        word = word.replace(code, chr(int(code[1:], 8)))
    return word


def shake_hands(fs: FileSystem) -> None:
    """The kernel's first request, and what both can do."""
    while True:
        try:
            message = os.read(fs.device, WRITE_SIZE + _PAGE)
            break
        except InterruptedError:
            continue
    _, opcode, unique, *_ = kernel.InHeader.read(message)
    major, minor, readahead, flags = kernel.InitIn.read(message, kernel.InHeader.size)
    if opcode != kernel.INIT or major != kernel.VERSION or minor < kernel.LEAST_MINOR:
        raise Failure(f"this kernel speaks FUSE {major}.{minor}, and {kernel.VERSION}.{kernel.LEAST_MINOR} is needed: Linux 5.4")
    at = kernel.InHeader.size + kernel.InitIn.size
    if flags & kernel.INIT_EXT and len(message) >= at + 4:
        flags |= int.from_bytes(message[at : at + 4], "little") << 32
    wanted = _FLAGS
    if fs.options.writeback:
        wanted |= kernel.WRITEBACK_CACHE
    elif fs.options.passthrough:  # the kernel drops it without a word beside a write-back cache
        wanted |= kernel.PASSTHROUGH
    both = flags & wanted
    fs.minor = min(minor, kernel.MINOR)
    fs.passthrough = bool(both & kernel.PASSTHROUGH)
    answer = kernel.InitOut.bytes(
        kernel.VERSION, fs.minor, min(readahead, WRITE_SIZE), both & 0xFFFFFFFF, 16, 12, WRITE_SIZE, 1,
        WRITE_SIZE // _PAGE, 0, both >> 32, 2 if fs.passthrough else 0,  # depth: what is donated may lie on an overlay
    )  # fmt: skip
    os.writev(fs.device, [kernel.OutHeader.bytes(kernel.OutHeader.size + len(answer), 0, unique), answer])

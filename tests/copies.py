"""Trees for the tests of what copies them: of every kind of name and file, and how two of them are compared."""

import os
import random
import stat
import subprocess
from pathlib import Path

from hosts import CHECKOUT, PYTHON, run, wait_until
from prison import USER, as_user

# The command, as if none of our own messages were known to the server.
OF_OLD = [
    *PYTHON, "-c",
    f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
    "from gofer import wire; wire.DIRREAD, wire.DIRWRITE, wire.DIRRENAME, wire.DIRWALK = range(1000, 1004)\n"
    "from gofer.cli import main; main(sys.argv[1:])",
]  # fmt: skip

# The command, as if each file were large and a processor idle; see copy/pair.py.
BY_TWO = [
    *PYTHON, "-c",
    f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
    "from gofer.copy import pair; pair.WINDOW, pair._PIECE, pair._idle = 1 << 22, 1 << 16, lambda: True\n"
    "from gofer.cli import main; main(sys.argv[1:])",
]  # fmt: skip

NAMES = [
    b"plain", b"with space", b"-rf", b"--", b"new\nline", b"tab\tand \x1b[31m", b"quote'\"`$(x)", b"back\\slash", b"\xff\xfe",
    b"half\xc3", "schön☃".encode(), b"n" * 255, b".hidden", b"...", b"*?[a]", b":", b"a:b", b"#", b"~", b" ", b".gofer-x.part",
]  # fmt: skip
TIMES = [0, 1, -1, -(10**18), 1_700_000_000_123_456_789, 2**31 * 10**9, 9_300_000_000 * 10**9, 999_999_999]


def fill(tree: Path, seed: int = 0, files: int = 60) -> None:
    """Directories, files, links and what else a server makes, of odd names, sizes, times, modes, owners and xattrs."""
    rng = random.Random(seed)
    root = os.fsencode(tree)
    directories = [root]
    for number in range(files // 6):
        directories.append(os.path.join(rng.choice(directories), b"d%d" % number + rng.choice((b"", b"\n", b" \xff"))))
        os.mkdir(directories[-1])
    made = []
    for number in range(files):
        name = NAMES[number] if number < len(NAMES) else b"f%d" % number
        path = os.path.join(rng.choice(directories), name)
        _file(path, rng)
        made.append(path)
    for number in range(files // 6):
        os.link(rng.choice(made), os.path.join(rng.choice(directories), b"hard%d" % number))
        target = rng.choice((b"plain", b"../../..", b"/etc/passwd", b"nowhere/at/all", b"x" * 1000, b"odd\xff\n"))
        os.symlink(target, os.path.join(rng.choice(directories), b"soft%d" % number))
    os.mknod(os.path.join(root, b"whiteout"), stat.S_IFCHR | 0o600, 0)
    os.mkdir(os.path.join(root, b"empty"), 0o711)
    for path in [*made, *directories[:0:-1]]:
        _attributes(path, rng)
    for name in (b"sparse", b"hole", b"end"):
        _sparse(os.path.join(root, name))


def _file(path: bytes, rng: random.Random) -> None:
    size = rng.choice((0, 1, 100, 4096, 65536, 65537, 300_000, 2_500_000))
    Path(os.fsdecode(path)).write_bytes(rng.randbytes(size) if hasattr(rng, "randbytes") else os.urandom(size))


def _attributes(path: bytes, rng: random.Random) -> None:
    os.chown(path, rng.choice((0, 1, 1000, 4_000_000_000)), rng.choice((0, 1000, 65534)))
    os.chmod(path, rng.choice((0o644, 0o600, 0o755, 0o000, 0o444, 0o777, 0o1777)))
    if rng.random() < 0.3:
        os.setxattr(path, "user.a", rng.choice((b"", b"\0\1", b"value" * 100)))
    os.utime(path, ns=(rng.choice(TIMES), rng.choice(TIMES)))


def _sparse(path: bytes) -> None:
    """A hole of 8 MiB with something before, in, or behind it, or nothing."""
    with open(path, "wb") as file:
        file.truncate(8 << 20)
        if not path.endswith(b"hole"):
            file.seek((8 << 20) - 10 if path.endswith(b"end") else 3 << 20)
            file.write(b"something")


def look(tree: Path, leave: "tuple[bytes, ...]" = ()) -> "dict[bytes, tuple[object, ...]]":
    """All that a copy keeps, by name: kind, mode, owner, times, contents or target, xattrs, which names are one file."""
    root = os.fsencode(tree)
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    for directory, below, names in os.walk(root):
        for name in sorted([*below, *names]):
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            if relative.split(b"/")[0] not in leave:
                found[relative] = _one(path, relative, first)
    return found


def _one(path: bytes, relative: bytes, first: "dict[int, bytes]") -> "tuple[object, ...]":
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    contents: object = status.st_rdev
    if kind == stat.S_IFLNK:
        contents = os.readlink(path)
    elif kind == stat.S_IFREG:
        contents = Path(os.fsdecode(path)).read_bytes()
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    same = first.setdefault(status.st_ino, relative) if kind != stat.S_IFDIR else b""
    return kind, oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, contents, xattrs, same


def differences(one: "dict[bytes, tuple[object, ...]]", other: "dict[bytes, tuple[object, ...]]") -> "list[str]":
    """For the failure of an assertion: without contents, which are long."""
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [f"{name!r}: {_short(one.get(name))} and {_short(other.get(name))}" for name in names]


def _short(found: "tuple[object, ...] | None") -> str:
    return repr(found)[:200]


def copy(*argv: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run get or put, quietly; without a word, unless it ends with a status."""
    done = run(*map(str, argv), "-q", errors="surrogateescape")
    assert done.returncode == status and (status or not done.stderr) and not done.stdout, done
    return done


def equal(one: Path, other: Path) -> None:
    assert differences(look(one), look(other)) == []


def parts(tree: Path) -> "list[str]":
    """Names of what is not complete."""
    return [name for _, _, names in os.walk(tree) for name in names if name.startswith(".gofer-") and len(name) > 40]


def put_to_a_user(spot: Path, source: Path) -> None:
    """What is in source, into spot/t, by a server that is USER."""
    with as_user(USER) as (command, how):
        argv = [*command, "serve", str(spot / "t"), "--quiet", "--socket", str(spot / "s")]
        with subprocess.Popen(argv, **how) as server:
            try:
                wait_until((spot / "s").exists, "it serves")
                copy("put", "-r", f"{source}/.", f"{spot}/s:/")
            finally:
                server.terminate()

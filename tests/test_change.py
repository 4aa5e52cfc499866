"""The commands that change a served tree, beside the coreutils of the same names on the same tree."""

import contextlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest
from asks import ask
from hosts import CALM, GOFER, Server, fails_in_one_line, run
from terminal import Terminal

Word = Union[str, bytes]
ODD = [b"plain", b"-dash", b"two words", b"quote'\"", b"new\nline", b"\xff\xfe", b"*?[", b"n" * 255]


class Twins:
    """Two directories that are alike: one is served, the other is for the coreutils."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ours, self.theirs = server.tree / "ours", server.tree / "theirs"
        self.plant()

    def plant(self) -> None:
        for place in (self.ours, self.theirs):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            with inside(place):
                _plant()

    def gofer(self, command: str, *words: Word, **how: Any) -> "subprocess.CompletedProcess[bytes]":
        """`@` at the front of bytes stands for the served directory."""
        return subprocess.run([*GOFER, command, *self.named(words)], capture_output=True, timeout=CALM, **how)

    def named(self, words: "tuple[Word, ...]") -> "list[bytes]":
        root = os.fsencode(self.server.path) + b":/ours/"
        return [root + word[1:] if isinstance(word, bytes) else os.fsencode(word) for word in words]

    def coreutils(self, command: str, *words: Word, **how: Any) -> "subprocess.CompletedProcess[bytes]":
        argv = [b"./" + word[1:] if isinstance(word, bytes) else os.fsencode(word) for word in words]
        return subprocess.run([command, *argv], capture_output=True, timeout=CALM, cwd=self.theirs, **how)

    def both(self, command: str, *words: Word) -> None:
        """The same exit status, and afterwards the same tree."""
        ours, theirs = ask(command, *self.named(words)), self.coreutils(command, *words, stdin=subprocess.DEVNULL)
        assert (ours.status, bool(ours.err)) == (theirs.returncode, bool(theirs.stderr)), (command, words, ours, theirs)
        assert looks(self.ours) == looks(self.theirs), (command, words)
        said = [sorted(out.splitlines()) for out in (ours.out.replace(b"/ours/", b"./"), theirs.stdout)]
        assert said[0] == said[1], (command, words)


@contextlib.contextmanager
def inside(place: Path) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY)
    os.chdir(place)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _plant() -> None:
    for name in ODD:
        with open(name, "wb") as file:
            file.write(name)
    os.makedirs("dir/sub/deep")
    for name in ("dir/a", "dir/sub/b", "dir/sub/deep/c"):
        Path(name).write_text(name)
    os.mkdir("empty")
    os.symlink("dir", "dirlink")
    os.symlink("plain", "link")
    os.symlink("nowhere", "dangling")
    os.mkfifo("fifo")
    os.mknod("block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.chmod("dir/sub", 0o2755)
    for path, _, names in os.walk("."):
        for name in names:
            os.utime(os.path.join(path, name), ns=(10**18, 10**18), follow_symlinks=False)


def looks(place: Path, times: bool = False) -> dict[bytes, tuple[Any, ...]]:
    found: dict[bytes, tuple[Any, ...]] = {}
    root = os.fsencode(place)
    for path, folders, names in os.walk(root):
        for name in folders + names:
            full = os.path.join(path, name)
            s = os.lstat(full)
            what: Any = os.readlink(full) if stat.S_ISLNK(s.st_mode) else b""
            if stat.S_ISREG(s.st_mode):
                with open(full, "rb") as file:
                    what = file.read()
            links = s.st_nlink if stat.S_ISREG(s.st_mode) else 0
            # A walk follows links, which is an access.
            when = (s.st_mtime_ns, 0 if stat.S_ISLNK(s.st_mode) else s.st_atime_ns) if times else ()
            found[os.path.relpath(full, root)] = (s.st_mode, s.st_uid, s.st_gid, links, what, *when)
    return found


@pytest.fixture
def twins(server: Server) -> Iterator[Twins]:
    before = os.umask(0o027)
    try:
        yield Twins(server)
    finally:
        os.umask(before)


CASES: "list[tuple[Word, ...]]" = [
    ("rm", b"@plain"), ("rm", b"@missing"), ("rm", "-f", b"@missing", b"@plain"), ("rm", b"@dir"), ("rm", "-r", b"@dir"),
    ("rm", "-r", b"@dirlink"), ("rm", b"@dangling", b"@fifo"), ("rm", "-d", b"@empty"), ("rm", "-d", b"@dir"),
    ("rm", "-rf", b"@dir", b"@missing", b"@empty"), ("rm", b"@plain/x"), ("rm", "-f", b"@missing/x"), ("rm", b"@block"),
    ("rm", "-r", b"@dir/"), ("rm", b"@plain/"), *(("rm", b"@" + name) for name in ODD), ("rmdir", b"@empty"),
    ("rmdir", b"@dir"), ("rmdir", b"@plain"), ("rmdir", "-p", b"@dir/sub/deep"), ("rmdir", b"@missing"), ("mkdir", b"@new"),
    ("mkdir", b"@plain"), ("mkdir", b"@a/b"), ("mkdir", "-p", b"@a/b/c"), ("mkdir", "-p", b"@dir/sub"),
    ("mkdir", "-m", "1751", b"@new"), ("mkdir", "-m", "u=rwx,go=", b"@new"), ("mkdir", "-p", "-m", "700", b"@a/b"),
    ("mkdir", "-p", b"@plain/x"), ("mkdir", b"@dirlink/x"), ("mkdir", "-p", b"@dangling"), ("mkdir", b"@dir/sub/x"),
    ("mkdir", b"@new\nname", b"@\xff\xfd"), ("mv", b"@plain", b"@other"), ("mv", b"@plain", b"@dir"),
    ("mv", b"@plain", b"@dir/"), ("mv", b"@dir", b"@empty"), ("mv", b"@plain", b"@link", b"@dir"),
    ("mv", b"@plain", b"@link", b"@fifo"), ("mv", b"@dir", b"@plain"), ("mv", b"@plain", b"@dir/a"),
    ("mv", "-n", b"@plain", b"@dir/a"), ("mv", "-T", b"@dir", b"@empty"), ("mv", b"@missing", b"@x"),
    ("mv", b"@dir", b"@dir/sub"), ("mv", b"@plain", b"@dirlink"), ("mv", "-T", b"@plain", b"@dirlink"),
    ("mv", b"@dangling", b"@x"), ("ln", b"@plain", b"@hard"), ("ln", b"@plain", b"@dir"), ("ln", b"@plain", b"@link"),
    ("ln", "-f", b"@plain", b"@dir/a"), ("ln", "-s", "any text", b"@soft"), ("ln", "-s", "x", b"@plain"),
    ("ln", "-sf", "x", b"@plain"), ("ln", "-s", "a/b", b"@dir"), ("ln", "-sn", "x", b"@dirlink"),
    ("ln", "-sfn", "x", b"@dirlink"), ("ln", "-sT", "x", b"@dir"), ("ln", b"@dir", b"@hard"), ("ln", b"@missing", b"@hard"),
    ("ln", "-s", "\udcff", b"@odd"), ("chmod", "0640", b"@plain"), ("chmod", "u+x,g=o", b"@plain"),
    ("chmod", "-R", "go-rwx", b"@dir"), ("chmod", "755", b"@dir/sub"), ("chmod", "a-r", b"@link"),
    ("chmod", "600", b"@missing"), ("chmod", "600", b"@dangling"), ("chmod", "-R", "u+X", b"@dir"),
    ("chmod", "4755", b"@plain", b"@missing", b"@fifo"), ("chown", "12", b"@plain"), ("chown", "12:34", b"@dir", b"@fifo"),
    ("chown", ":56", b"@plain"), ("chown", "-R", "1:1", b"@dir"), ("chown", "-h", "7", b"@link"), ("chown", "7", b"@link"),
    ("chown", "daemon:", b"@plain"), ("chown", "7", b"@dangling"), ("chown", "root", b"@missing"),
    ("chown", "-R", "3", b"@dirlink"), ("touch", b"@new"), ("touch", "-c", b"@new"), ("touch", b"@dangling"),
    ("touch", b"@dir/new", b"@plain"), ("touch", b"@missing/x"), ("truncate", "-s", "5", b"@plain"),
    ("truncate", "-s", "+3", b"@plain"), ("truncate", "-s", "-2", b"@plain"), ("truncate", "-s", ">9", b"@plain"),
    ("truncate", "-s", "<2", b"@plain"), ("truncate", "-s", "/2", b"@plain"), ("truncate", "-s", "%4", b"@plain"),
    ("truncate", "-s", "1K", b"@new"), ("truncate", "-cs", "1K", b"@new"), ("truncate", "-s", "1KB", b"@new"),
    ("truncate", "-s", "1", b"@dir"), ("truncate", "-s", "0", b"@link"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_tree_is_changed_as_the_coreutils_change_it(twins: Twins, case: "tuple[Word, ...]") -> None:
    command, *words = case
    twins.both(str(command), *words)


ENDS: "dict[str, list[tuple[Word, ...]]]" = {  # `/`, `.`, `..` at the end; a file under two names
    "touch": [
        (b"@missing/",), (b"@plain/",), (b"@dir/",), (b"@dangling/",), ("-c", b"@missing/"), ("-h", b"@missing"),
        ("-ch", b"@missing"), ("-h", b"@dangling"), (b"@.",), (b"@dir/..",),
    ],
    "truncate": [
        ("-s3", b"@missing/"), ("-s3", b"@plain/"), ("-cs3", b"@missing/"), ("-s1k", b"@plain"), ("-s1m", b"@new"),
        ("-s1KiB", b"@new"), ("-s1B", b"@new"), ("-s9E", b"@plain"), ("-s5", b"@plain", b"@dir", b"@fifo"), ("-s-9", b"@plain"),
    ],
    "mv": [
        (b"@plain", b"@missing/"), (b"@dir", b"@missing/"), (b"@plain/", b"@x"), (b"@dirlink/", b"@x"), (b"@dirlink", b"@x"),
        (b"@dir/", b"@x"), ("-T", b"@plain", b"@missing/"), (b"@plain", b"@plain"), (b"@plain", b"@."), (b"@.", b"@x"),
        (b"@dir/.", b"@x"), (b"@dir/..", b"@x"), (b"@dir", b"@dir"), ("-n", b"@plain", b"@plain"), ("-T", b"@dir", b"@dir"),
        (b"@missing", b"@plain", b"@dir"), (b"@block", b"@new"), (b"@dangling", b"@plain"), (b"@fifo", b"@plain"),
        (b"@plain", b"@dir/sub/../one"), (b"@one", b"@two"), (b"@one", b"@dir"),
    ],
    "ln": [
        (b"@plain", b"@missing/"), ("-s", "x", b"@missing/"), ("-s", "x/", b"@dir"), ("-s", "..", b"@dir"),
        ("-f", b"@one", b"@two"), ("-sf", ".", b"@dangling"), (b"@plain/", b"@x"), (b"@dirlink/", b"@x"), (b"@dirlink", b"@x"),
        ("-s", "", b"@x"), ("-s", "a" * 4095, b"@x"), ("-s", "a" * 4096, b"@x"), ("-T", b"@plain", b"@dir"),
        ("-fT", b"@plain", b"@dir"), ("-n", b"@plain", b"@dirlink"), (b"@.", b"@x"), (b"@fifo", b"@dir/"),
        (b"@plain", b"@plain"), (b"@plain", b"@plain/"),
    ],
    "mkdir": [
        (b"@.",), ("-p", b"@."), (b"@..",), ("-p", b"@dir/.."), (b"@new//",), (b"@dangling/",), ("-p", b"@a/../b"),
        ("-p", b"@dir/../b/c"), ("-p", b"@a/./b//c"), ("-p", b"@new/."), (b"@new/.",), ("-p", b"@plain/../x"),
        (b"@a", b"@a/b", b"@plain", b"@c"), ("-pm", "000", b"@p/q"), ("-m", "g+s", b"@new"), ("-pm", "700", b"@dir"),
    ],
    "rmdir": [(b"@empty/",), (b"@.",), (b"@empty/.",), (b"@dirlink/",), ("-p", b"@empty/"), (b"@empty", b"@missing", b"@plain")],
    "rm": [
        ("-f",), ("-rf",), ("-r", b"@."), ("-r", b"@dir/."), ("-rf", b"@.."), (b"@dirlink/",), ("-f", b"@plain/"),
        ("-f", b"@missing/"), ("-f", b"@plain/x"), ("-r", b"@plain", b"@plain"), (b"@missing/",), ("-f", b"@dir"),
    ],
    "chmod": [
        ("-w", b"@plain"), ("-x+r", b"@plain"), ("-R", "-w", b"@dir"), ("-r", b"@plain"), ("+x", b"@plain"), ("=", b"@plain"),
        ("u=g", b"@plain"), ("u+s,g+s,o+t", b"@dir"), ("00755", b"@dir/sub"), ("00000", b"@dir/sub"), ("g=u-x", b"@plain"),
        ("755", b"@plain/"), ("-R", "a=rX", b"@dir", b"@dirlink"), ("-R", "755", b"@dangling"), ("7777", b"@dir"),
        ("-w", b"@link"),
    ],
    "chown": [
        (":", b"@plain"), ("root:root", b"@plain"), ("-R", "5:6", b"@dir", b"@missing"), ("-hR", "5:6", b"@dirlink"),
        ("7:8", b"@link", b"@dirlink"), ("4294967295", b"@plain"), ("4294967296", b"@plain"), ("3", b"@plain/"),
    ],
    "cp": [
        ("-a", b"@plain", b"@missing/"), ("-a", b"@dir", b"@new/"), ("-a", b"@dir/", b"@empty"), ("-a", b"@dir/.", b"@empty"),
        ("-a", b"@dirlink", b"@new"), ("-a", b"@dirlink/", b"@new"), ("-a", b"@plain", b"@dirlink"), ("-p", b"@dir", b"@new"),
        ("-a", b"@plain", b"@plain"), ("-a", b"@one", b"@two"), ("-aT", b"@plain", b"@dir"), ("-a", b"@dir", b"@plain"),
        ("-a", b"@missing", b"@plain", b"@empty"), ("-p", b"@dangling", b"@new"), ("-a", b"@plain", b"@plain/x"),
        ("-a", b"@plain", b"@missing/x"),
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", ENDS)
def test_what_a_path_means_at_its_end_is_what_it_means_to_the_coreutils(twins: Twins, command: str) -> None:
    for words in ENDS[command]:
        twins.plant()
        for place in (twins.ours, twins.theirs):
            (place / "one").write_text("of two names")
            os.link(place / "one", place / "two")
        twins.both(command, *words)


VERBOSE: "list[tuple[Word, ...]]" = [
    ("rm", "-v", b"@plain", b"@link"), ("rm", "-rv", b"@dir", b"@empty"), ("rm", "-dv", b"@empty"), ("rmdir", "-v", b"@empty"),
    ("rmdir", "-pv", b"@dir/sub/deep"), ("mkdir", "-v", b"@a", b"@plain", b"@b"),
    ("mkdir", "-pv", b"@a/b/c", b"@a", b"@dir/new/"),
    ("mv", "-v", b"@plain", b"@x"), ("mv", "-v", b"@plain", b"@link", b"@dir"), ("mv", "-nv", b"@plain", b"@link"),
    ("ln", "-v", b"@plain", b"@x"), ("ln", "-sv", "any", b"@x"), ("ln", "-sfv", "any", b"@plain"),
    ("ln", "-v", b"@plain", b"@dir"), ("chmod", "-v", "600", b"@plain"),
    ("chmod", "-v", "640", b"@plain", b"@dir"), ("chmod", "-c", "640", b"@plain", b"@dir"),
    ("chmod", "-Rc", "u+s,o=t", b"@dir"), ("chown", "-v", "3:4", b"@plain"), ("chown", "-v", "root", b"@plain"),
    ("chown", "-c", "0:0", b"@plain"), ("chown", "-Rv", ":6", b"@dir"),
    ("chown", "-v", "bin:", b"@plain"), ("chown", "-v", "4000000000:4000000000", b"@plain"), ("chown", "-hv", "7", b"@link"),
    ("chown", "-v", ":", b"@plain"), ("chown", "-cR", "7", b"@dir"),
]  # fmt: skip


@pytest.mark.slow
def test_what_is_told_of_each_is_what_the_coreutils_tell(twins: Twins) -> None:
    for command, *words in VERBOSE:
        twins.plant()
        twins.both(str(command), *words)


@pytest.mark.parametrize(
    "words",
    [
        ("-d", "2001-02-03T04:05:06.789Z", b"@plain"), ("-a", "-d", "@12.5", b"@plain"), ("-m", "-d", "@-12", b"@plain"),
        ("-h", "-d", "2001-02-03 04:05", b"@link"), ("-t", "0102030405.06", b"@plain"), ("-d", "@9999999999", b"@link"),
        ("-d", "2001-02-03T04:05:06+0130", b"@dir/a"), ("-h", "-d", "@1", b"@dangling"), ("-t", "199912312359", b"@fifo"),
    ],
)  # fmt: skip
def test_touch_sets_the_times_that_it_is_told(twins: Twins, words: "tuple[Word, ...]") -> None:
    done, theirs = twins.gofer("touch", *words), twins.coreutils("touch", *words)
    assert (done.returncode, done.stderr) == (theirs.returncode, theirs.stderr) == (0, b"")
    names = [word[1:] for word in words if isinstance(word, bytes)]
    if "-h" not in words:
        names = [{b"link": b"plain"}.get(name, name) for name in names]
    ours, theirs_now = looks(twins.ours, times=True), looks(twins.theirs, times=True)
    assert [ours[name] for name in names] == [theirs_now[name] for name in names]


def test_touch_takes_the_times_of_another_file_or_now(twins: Twins) -> None:
    root = f"{twins.server.path}:/ours"
    os.utime(twins.ours / "dir/a", ns=(1, 2))
    assert run("touch", "-r", f"{root}/dir/a", f"{root}/plain").returncode == 0
    s = os.stat(twins.ours / "plain")
    assert (s.st_atime_ns, s.st_mtime_ns) == (1, 2)
    before = time.time_ns() - 10**9
    assert run("touch", f"{root}/plain").returncode == 0
    assert before < os.stat(twins.ours / "plain").st_mtime_ns < time.time_ns() + 10**9


def test_rm_removes_a_large_and_a_deep_tree(server: Server) -> None:
    many = server.tree / "many"
    many.mkdir()
    for number in range(10_000):
        (many / f"{number:05}{'x' * 40}").touch()
    deep = server.tree / "deep"
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python recurses
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    done = run("rm", "-r", f"{server.path}:/many", f"{server.path}:/deep")
    assert (done.returncode, done.stderr, os.listdir(server.tree)) == (0, "", [])


def test_what_rm_cannot_remove_costs_nothing_else_of_the_tree(server: Server) -> None:
    for name in ("a/keep/x", "a/keep/y", "a/go/z"):
        (server.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (server.tree / name).touch()
    subprocess.run(["chattr", "+i", server.tree / "a/keep/x"], check=True)
    try:
        done = run("rm", "-r", f"{server.path}:/a")
        assert done.returncode == 1
        assert done.stderr == "gofer: rm /a/keep/x: Operation not permitted\n"
        assert [os.listdir(server.tree / "a"), os.listdir(server.tree / "a/keep")] == [["keep"], ["x"]]
    finally:
        subprocess.run(["chattr", "-i", server.tree / "a/keep/x"], check=True)


def test_rm_asks_before_each_and_leaves_what_is_not_wanted(twins: Twins) -> None:
    answers = b"y\n" * 2 + b"n\n" + b"y\n" * 8
    done = twins.gofer("rm", "-ri", b"@dir", input=answers)
    assert done.returncode == 0 and b"descend into directory '" in done.stderr and b"remove regular file '" in done.stderr
    assert (twins.ours / "dir").exists()
    assert twins.gofer("rm", "-i", b"@plain", input=b"").returncode == 0 and (twins.ours / "plain").exists()
    assert twins.gofer("mv", "-i", b"@plain", b"@dir/sub", input=b"no\n").returncode == 0


def test_mv_exchanges_two(twins: Twins) -> None:
    assert twins.gofer("mv", "--exchange", "-T", b"@plain", b"@dir").returncode == 0
    assert (twins.ours / "plain/sub").is_dir() and (twins.ours / "dir").read_text() == "plain"


def test_extended_attributes_are_listed_read_set_and_removed(twins: Twins) -> None:
    for value, wanted in (("text", b"text"), ("0x00ff", b"\0\xff"), ("0sAAE=", b"\0\1")):
        assert twins.gofer("xattr", "set", "user.one", value, b"@plain").returncode == 0
        assert os.getxattr(twins.ours / "plain", "user.one") == wanted
        assert twins.gofer("xattr", "get", "user.one", b"@link").stdout == wanted + b"\n"
    assert twins.gofer("xattr", "list", b"@plain").stdout == b"user.one\n"
    assert twins.gofer("xattr", "list", "--json", b"@plain").stdout.endswith(b'"name": "user.one"}\n')
    assert twins.gofer("xattr", "remove", "user.one", b"@plain").returncode == 0
    assert twins.gofer("xattr", "get", "user.one", b"@plain").returncode == 1


def test_sync_writes_a_file_to_its_disk(twins: Twins) -> None:
    done = twins.gofer("sync", b"@plain", b"@dir", b"@link")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "argv,words",
    [
        (["rm", "@/"], ["the root of what is served", "are not removed"]),
        (["rm", "-r", "@/dir/.."], ["are not removed"]),
        (["rm", "@/dir"], ["it is a directory", "-r removes it"]),
        (["rm"], ["what is to be removed?"]),
        (["mv", "@/file"], ["where to?"]),
        (["mv", "@/file", "@/dir/../file"], ["mv /file: that and /dir/../file are the same file"]),
        (["mv", "@/.", "@/x"], ["the root of what is served, `.` and `..` are no names that something can get or give up"]),
        (["cp", "@/file", "@/x/"], ["/x/: it is no directory to copy into"]),
        (["cp", "@/file", "@/file"], ["cp /file: that and what is to be its copy are the same file"]),
        (["cp", "@/file", "@/file/x"], ["/file/x: nothing can be copied to there: Not a directory"]),
        (["put", "-q", "/etc/hostname", "@/file/"], ["/file/: nothing can be copied to there: Not a directory"]),
        (["put", "-q", "/etc/hostname", "@/" + "n" * 256], ["nothing can be copied to there: File name too long"]),
        (["put", "-q", "/etc/hostname", "@/x/"], ["/x/: it is no directory to copy into"]),
        (["get", "-q", "@/file", "/nonexistent/"], ["/nonexistent/: it is no directory to copy into"]),
        (["ln", "@/missing", "@/x"], ["ln /missing: No such file"]),
        (["ln", "@/dir", "@/x"], ["ln /dir: a directory has one name only: -s makes a symbolic link to it"]),
        (["touch", "@/x/"], ["touch /x/: Is a directory"]),
        (["mv", "@/file", "@/file2", "@/file"], ["is no directory, and 2 files are to go there"]),
        (["mv", "@/file", "/elsewhere/x.sock:/y"], ["both names are on one server"]),
        (["ln", "/elsewhere/x.sock:/y", "@/z"], ["on one server"]),
        (["chmod", "u+q", "@/file"], ["invalid mode 'u+q'"]),
        (["chmod", "99", "@/file"], ["invalid mode '99'"]),
        (["chown", "nobody-of-that-name", "@/file"], ["is no user that this machine knows; give its number"]),
        (["chown", ":no-such-group", "@/file"], ["is no group"]),
        (["chown", "99999:", "@/file"], ["user 99999 has no group here"]),
        (["touch", "-d", "yesterday", "@/file"], ["'yesterday' is no time", "@SECONDS"]),
        (["touch", "-d", "2001-13-01", "@/file"], ["is no time"]),
        (["touch", "-t", "1", "@/file"], ["is no time; give it as"]),
        (["truncate", "-s", "much", "@/file"], ["'much' is no size"]),
        (["truncate", "-s", "%0", "@/file"], ["multiple of 0"]),
        (["sync", "@/fifo"], ["neither a file nor a directory"]),
        (["xattr", "get"], ["give NAME before the files"]),
        (["xattr", "set", "user.x"], ["give NAME and VALUE before the files"]),
        (["xattr", "set", "user.x", "0xabc", "@/file"], ["'0xabc' is no value"]),
        (["xattr", "get", "user.none", "@/file"], ["it has no attribute user.none"]),
        (["edit", "@/dir"], ["only regular files are edited"]),
        (["edit", "@/x/"], ["only regular files are edited"]),
    ],
)
def test_what_cannot_be_done_is_one_line(server: Server, argv: list[str], words: list[str]) -> None:
    (server.tree / "dir").mkdir()
    os.mkfifo(server.tree / "fifo")
    for name in ("file", "file2"):
        (server.tree / name).touch()
    words_of = [f"{server.path}:{word[1:]}" if word.startswith("@") else word for word in argv]
    if "99999:" in words_of:
        assert not any(entry.startswith("99999:") for entry in Path("/etc/passwd").read_text().splitlines())
    fails_in_one_line(run(*words_of), *words)


@pytest.mark.serve("--read-only")
@pytest.mark.parametrize(
    "argv", [["rm", "@/file"], ["mkdir", "@/x"], ["mv", "@/file", "@/x"], ["chmod", "600", "@/file"], ["touch", "@/file"]]
)
def test_a_server_that_is_read_only_says_so_and_why(server: Server, argv: list[str]) -> None:
    (server.tree / "file").touch()
    words = [f"{server.path}:{word[1:]}" if word.startswith("@") else word for word in argv]
    fails_in_one_line(run(*words), "Read-only file system", "--read-only")


# edit


def edit(server: Server, path: str, script: str) -> "subprocess.CompletedProcess[str]":
    """script: what the editor does to "$1"."""
    env = {**os.environ, "EDITOR": f"sh -c '{script}' sh", "VISUAL": ""}
    return run("edit", f"{server.path}:{path}", env=env)


def test_edit_puts_back_what_has_changed_with_owner_mode_and_attributes(server: Server) -> None:
    path = server.tree / "file"
    path.write_text("before\n")
    os.chown(path, 12, 34)
    os.chmod(path, 0o4751)
    os.setxattr(path, "user.x", b"y")
    os.symlink("file", server.tree / "link")
    inode = os.stat(path).st_ino
    done = edit(server, "/link", 'echo after >>"$1"')
    assert (done.returncode, done.stderr, path.read_text()) == (0, "", "before\nafter\n")
    s = os.stat(path)
    assert (s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode), os.getxattr(path, "user.x")) == (12, 34, 0o4751, b"y")
    assert s.st_ino != inode and sorted(os.listdir(server.tree)) == ["file", "link"]


def test_edit_leaves_alone_what_was_not_changed_and_makes_what_is_not_there(server: Server) -> None:
    path = server.tree / "file"
    path.write_text("same")
    inode = os.stat(path).st_ino
    assert edit(server, "/file", "true").returncode == 0 and os.stat(path).st_ino == inode
    assert edit(server, "/new", 'echo made >"$1"').returncode == 0
    assert (server.tree / "new").read_text() == "made\n"
    assert edit(server, "/never", "true").returncode == 0 and not (server.tree / "never").exists()


def test_edit_keeps_the_copy_where_somebody_else_has_changed_the_file(server: Server) -> None:
    path = server.tree / "file"
    path.write_text("before")
    done = edit(server, "/file", f'echo mine >"$1"; echo theirs >{path}')
    assert done.returncode == 1 and path.read_text() == "theirs\n"
    assert "somebody else has changed it meanwhile; what was edited is kept in " in done.stderr
    copy = Path(done.stderr.split("kept in ")[1].strip())
    assert copy.read_text() == "mine\n" and stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    shutil.rmtree(copy.parent)


def test_edit_tells_of_an_editor_that_fails_or_is_not_there(server: Server) -> None:
    (server.tree / "file").write_text("before")
    done = edit(server, "/file", "exit 3")
    assert done.returncode == 1 and "ended with status 3, so nothing is put back" in done.stderr
    shutil.rmtree(Path(done.stderr.split("kept in ")[1].strip()).parent)
    done = run("edit", f"{server.path}:/file", env={**os.environ, "VISUAL": "no-such-editor"})
    assert done.returncode == 1 and "cannot run no-such-editor" in done.stderr and "$EDITOR" in done.stderr
    shutil.rmtree(Path(done.stderr.split("kept in ")[1].strip()).parent)




def test_ctrl_c_in_the_editor_is_the_editors(server: Server) -> None:
    path = server.tree / "file"
    path.write_text("before\n")
    script = 'trap "echo caught" INT; echo ready; until read line; do :; done; echo "$line" >>"$1"'
    with Terminal(*GOFER, "edit", f"{server.path}:/file", VISUAL=f"sh -c '{script}' sh") as shown:
        shown.wait_for("ready\r\n")
        shown.type("\x03")
        shown.wait_for("caught\r\n")
        shown.type("after\n")
    assert (shown.close(), path.read_text()) == (0, "before\nafter\n")

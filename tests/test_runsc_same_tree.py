"""The same workload in a container, under runsc's own gofer and under ours, leaves the same tree on the host."""

import errno
import hashlib
import os
import shutil
import socket
import stat
import tarfile
import threading
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import pytest
from hosts import CALM
from runsc import Runsc, Variant, bind, bundle, container, one_file_gofer

pytestmark = pytest.mark.slow

C = container()
# Their bytes hold times and inode numbers, or depend on which of two processes came first.
NOT_BY_CONTENT = (".git/index", "base.db")

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SYS_ADMIN"]

COREUTILS = r"""
mkdir -p a/b/c d; echo one > a/1; echo two >> a/1; cp a/1 a/b/2; mv a/b/2 d/moved; ln a/1 a/hard; ln -s ../a/1 d/link
ln -s nowhere d/dangling; chmod 751 a/b; chmod 4755 d/moved; chmod 2770 a/b/c; touch a/b/c/inherits
chown 1000:100 a/hard d/link
touch -d '2001-02-03 04:05:06' d/moved; mkfifo pipe 2>/dev/null || echo no fifo > pipe.txt
dd if=/dev/zero of=sparse bs=1 count=1 seek=1000000 2>/dev/null; head -c 70000 /dev/zero > big; cat big >> big2; cp -a a copied
rm a/b/c/inherits; rmdir a/b/c; mv d e; cd e; mv ../copied .; ls -la . | cut -c1-10 > ../modes
du -a .. | wc -l > /count; mv /count ..
{ cat ../nothing; mkdir ../a; rmdir ..; ln ../a ../x; mv ../a ../a/b; } 2> ../error
for i in 1 2 3 4 5 6 7 8 9; do echo $i > ../n$i; done; rm ../n[3-5]; find .. | sort > /found; mv /found ..
"""

TAR = r"""
tar xf in.tar; tar cf - tree | tar tf - | sort > names; rm in.tar
"""

GIT = r"""
export HOME=/work GIT_AUTHOR_DATE='2001-01-01 00:00:00Z' GIT_COMMITTER_DATE='2001-01-01 00:00:00Z'
git config --global user.name n; git config --global user.email e@x; git config --global gc.auto 0
git init -q -b main repo; cd repo; for i in 1 2 3; do mkdir d$i; echo $i > d$i/f; done; git add .; git commit -qm first
echo more >> d1/f; rm d2/f; git mv d3/f d3/g; echo new > new
git status --porcelain > ../status; git add -A; git commit -qm second
git checkout -q HEAD~1; git checkout -q main; git log --format='%H %s' > ../log; git fsck --strict 2> /dev/null >> ../log
"""

SQLITE = r"""
sqlite3 base.db 'pragma journal_mode=wal; create table t(who, n);' > /dev/null
fill() {
  for i in 0 1 2 3 4 5 6 7; do
    sqlite3 -cmd '.timeout 900000' base.db "begin immediate; insert into t values('$1', $i); commit;"
  done
}
fill left & fill right & wait
sqlite3 base.db 'select * from t order by who, n' > rows
sqlite3 base.db 'pragma wal_checkpoint(truncate); pragma integrity_check' > check
rm -f base.db-wal base.db-shm
"""

PYTHON = r"""
import errno, fcntl, mmap, os, threading
def name(call, *args):
    try: return repr(call(*args))
    except OSError as error: return errno.errorcode[error.errno]
said = []
open("a", "w").write("first"); old = open("a"); open("b", "w").write("second")
os.rename("b", "a"); said.append((old.read(), open("a").read()))                      # rename over an open file
held = open("gone", "w+"); os.unlink("gone"); held.write("x" * 5000); held.truncate(3); held.seek(0); said.append(held.read())
os.link("a", "hard1"); os.link("hard1", "hard2"); os.unlink("hard1"); said.append(os.stat("a").st_nlink)
with open("cut", "wb") as f: f.write(b"0123456789"); f.truncate(4); f.truncate(8)
with open("room", "wb") as f: said.append(name(os.posix_fallocate, f.fileno(), 0, 12345))
with open("map", "w+b") as f:
    f.truncate(3 * 4096); m = mmap.mmap(f.fileno(), 0); m[4090:4102] = b"across pages"; m.flush(); m.close()
    f.seek(4090); said.append(f.read(12))
os.mkdir("d", 0o1777); said.append([name(os.rmdir, "."), name(os.unlink, "d")])
said.append([name(os.rename, "d", "a"), name(os.open, "d", os.O_WRONLY)])
said.append([name(os.mkdir, "n" * 256), name(os.open, "a/x", 0), name(os.readlink, "a"), name(os.truncate, "d", 0)])
os.symlink("loop", "loop"); said.append(name(os.open, "loop", 0))
os.chmod("a", 0o6711); os.chown("a", 77, 88); said.append(oct(os.stat("a").st_mode)); os.utime("a", (1, 2**33))
fd = os.open("app", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640); os.write(fd, b"1"); os.pwrite(fd, b"2", 0); os.write(fd, b"3")
threads = [threading.Thread(target=lambda i=i: open(f"t{i}", "w").write("x" * i * 100)) for i in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]
with open("lock", "w") as f: fcntl.flock(f, fcntl.LOCK_EX)
said.append(sorted(e.name for e in os.scandir(".")))
open("said", "w").write("\n".join(map(str, said)))
"""

XATTRS = r"""
import os
said = b""
try:
    os.setxattr("f", "user.k", b"v"); os.setxattr("f", "user.gone", b""); os.removexattr("f", "user.gone")
    said += os.getxattr("f", "user.host") + os.getxattr("f", "user.k") + ",".join(os.listxattr("f")).encode()
    os.setxattr("f", "security.x", b"v")
except OSError as error: said += str(error.errno).encode()
open("said", "wb").write(said)
"""

SOCKETS = r"""
import os, socket, stat, threading
server = socket.socket(socket.AF_UNIX); server.bind("in-container"); server.listen(); os.chmod("in-container", 0o640)
def serve():
    conn, _ = server.accept(); conn.sendall(conn.recv(100).upper()); conn.close()
thread = threading.Thread(target=serve); thread.start()
client = socket.socket(socket.AF_UNIX); client.connect("in-container"); client.sendall(b"hello")
said = client.recv(100); thread.join()
host = socket.socket(socket.AF_UNIX); host.connect("on-host"); host.sendall(b"to the host"); said += host.recv(100)
open("said", "wb").write(said + str(stat.S_ISSOCK(os.stat("in-container").st_mode)).encode())
"""

FIFO = r"""
read line < fifo; echo "got $line" > out; echo back > back
"""

LARGE = r"""
find tree -type f -size +3k | sort > big; find tree -type f -name '*7' -exec cat {} + | wc -c > bytes
du -s tree > du; rm -r tree/d1; mv tree/d2 tree/moved; find tree | wc -l > count
"""


def nothing(work: Path) -> None:
    pass


def make_tar(work: Path) -> None:
    """800 files, with a set-uid one, links, an empty directory, a name that is not ASCII."""
    tree = work / "tree"
    for i in range(800):
        path = tree / f"d{i % 40}" / f"f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % i * (i % 60))
        os.chmod(path, 0o600 + i % 64)
        os.utime(path, (1e9 + i, 1e9 + i))
    (tree / "empty").mkdir()
    (tree / "ä\n").write_text("x")
    (tree / "link").symlink_to("d1/f1")
    os.link(tree / "d2/f2", tree / "hard")
    os.chmod(tree / "d3/f3", 0o4755)
    with tarfile.open(work / "in.tar", "w") as tar:
        tar.add(tree, "tree", filter=long_ago)
    shutil.rmtree(tree)


def long_ago(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """No time in the archive is that of its making, so that two are equal."""
    info.mtime = min(info.mtime, 1e9 + 800)
    return info


def make_large_tree(work: Path) -> None:
    for i in range(1000):
        path = work / f"tree/d{i % 50}/e{i % 3}/f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (i % 5000))
    os.sync()  # du counts blocks, which are allocated late


WORKLOADS: "dict[str, tuple[str, Callable[[Path], None]]]" = {
    "coreutils": (COREUTILS, nothing),
    "tar": (TAR, make_tar),
    "git": (GIT, nothing),
    "sqlite": (SQLITE, nothing),
    "python": (PYTHON, nothing),
    "large": (LARGE, make_large_tree),
}


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


class Setting(NamedTuple):
    spot: Path
    one_file: Path
    variant: Variant


@pytest.fixture
def setting(spot: Path, one_file: Path, variant: Variant) -> Setting:
    return Setting(spot, one_file, variant)


def run(
    setting: Setting,
    gofer: Optional[Path],
    script: str,
    prepare: Callable[[Path], None],
    flags: "list[str]",
    in_root: bool = False,
) -> "dict[str, object]":
    """A snapshot of /work after the script. gofer: our one file, or None for runsc's own."""
    place = setting.spot / ("ours" if gofer else "own")
    place.mkdir()
    runsc = Runsc(place, gofer, setting.variant)
    mounts = [bind("/usr", "/usr", "rbind", "ro")]
    work = place / "b/rootfs/work"
    if not in_root:
        work = place / "work"
        mounts.append(bind("/work", str(work), "rbind", "rw"))
    python = ["/usr/bin/python3", "-IS", "-c", script]
    args = python if script.startswith("\nimport") else ["/bin/sh", "-c", script]
    process = {"args": args, "cwd": "/work", "env": ["PATH=/bin:/usr/bin"], "user": {"uid": 0, "gid": 0}}
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    bundle(place / "b", "", *mounts, process=process)
    for library in ("lib", "lib64"):
        (place / "b/rootfs" / library).symlink_to(f"usr/{library}")
    work.mkdir()
    prepare(work)
    before = snapshot(work)
    done = runsc.run("run", f"--bundle={place}/b", C, flags=flags)
    assert (done.stdout, done.stderr) == ("", "")
    assert gofer is None or runsc.served_by_us() == 1
    after = snapshot(work)
    changes = not in_root or setting.variant.does("the root's changes are seen on the host")
    assert (after != before) == changes
    return after


def run_both(
    setting: Setting, script: str, prepare: Callable[[Path], None], flags: "list[str]", in_root: bool = False
) -> "tuple[dict[str, object], dict[str, object]]":
    own, ours = (run(setting, gofer, script, prepare, flags, in_root) for gofer in (None, setting.one_file))
    return own, ours


def snapshot(tree: Path) -> "dict[str, object]":
    """By relative path: type, mode, owner, links, and of a file its size, content and extended attributes."""
    found: dict[str, object] = {}
    for folder, _, _ in os.walk(tree):
        for path in [folder, *(entry.path for entry in os.scandir(folder) if not entry.is_dir(follow_symlinks=False))]:
            info = os.lstat(path)
            name = os.path.relpath(path, tree)
            about: list[object] = [oct(info.st_mode), info.st_uid, info.st_gid, info.st_nlink, info.st_rdev]
            if stat.S_ISLNK(info.st_mode):
                about.append(os.readlink(path))
            elif stat.S_ISREG(info.st_mode) and not name.endswith(NOT_BY_CONTENT):
                about += [info.st_size, hashlib.sha256(Path(path).read_bytes()).hexdigest()]
            about += [
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            ]
            found[name] = about
    return found


@pytest.mark.parametrize("name", ["coreutils", "git", "sqlite", "python"])
def test_on_a_bind_mount(setting: Setting, name: str) -> None:
    script, prepare = WORKLOADS[name]
    own, ours = run_both(setting, script, prepare, [])
    assert ours == own


@pytest.mark.parametrize("name", ["coreutils", "python", "tar", "large"])
def test_on_the_root(setting: Setting, name: str) -> None:
    """Which the sandbox has for itself, so that it caches: fewer requests."""
    script, prepare = WORKLOADS[name]
    own, ours = run_both(setting, script, prepare, [], in_root=True)
    assert ours == own


def test_user_attributes_which_the_gofers_of_2022_and_2024_do_not_have(setting: Setting) -> None:
    """So nothing to compare with; gVisor has had them since e7b59aa1b."""

    def make(work: Path) -> None:
        (work / "f").write_text("")
        os.setxattr(work / "f", "user.host", b"h")

    ours = run(setting, setting.one_file, XATTRS, make, [])
    there = setting.variant.does("a container has user attributes")
    assert (setting.spot / "ours/work/said").read_bytes() == b"hvuser.host,user.k" * there + b"%d" % errno.EOPNOTSUPP
    assert (("user.k", b"v") in ours["f"]) == there  # type: ignore[operator]


def test_unix_sockets(setting: Setting) -> None:
    servers = []

    def listen(work: Path) -> None:
        server = socket.socket(socket.AF_UNIX)
        directory = os.open(work, os.O_PATH)
        server.bind(f"/proc/self/fd/{directory}/on-host")
        os.close(directory)
        server.listen()
        server.settimeout(CALM)
        servers.append((server, threading.Thread(target=answer, args=(server,))))
        servers[-1][1].start()

    def answer(server: socket.socket) -> None:
        conn, _ = server.accept()
        with conn:
            conn.sendall(b"host heard: " + conn.recv(100))

    own, ours = run_both(setting, SOCKETS, listen, ["--host-uds=all"])
    for server, thread in servers:
        thread.join()
        server.close()
    assert (setting.spot / "ours/work/said").read_bytes() == b"HELLOhost heard: to the hostTrue"
    assert ours == own


def test_fifos(setting: Setting) -> None:
    fds = []

    def make(work: Path) -> None:
        for name in ("fifo", "back"):
            os.mkfifo(work / name)
            fds.append(os.open(work / name, os.O_RDWR))
        os.write(fds[-2], b"from the host\n")

    own, ours = run_both(setting, FIFO, make, ["--host-fifo=open"])
    assert (setting.spot / "ours/work/out").read_text() == "got from the host\n"
    assert [os.read(fd, 100) for fd in fds[1::2]] == [b"back\n", b"back\n"]
    for fd in fds:
        os.close(fd)
    assert ours == own

"""Commands on served trees that have no twin on the host, or none that prints the same: diff, sum, tree; --json; a terminal."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from asks import WORLD, Done, ask, served, zoo
from conftest import Start
from hosts import CALM, GOFER, PATIENCE, Server


@pytest.fixture(scope="module")
def there() -> Iterator[Server]:
    with served(zoo) as server:
        yield server


def copied(spot: Path, there: Server) -> Path:
    subprocess.run(["cp", "-a", str(there.tree / "zoo/dir"), str(spot / "copy")], check=True)
    return spot / "copy"


# diff


def test_a_tree_does_not_differ_from_its_copy(there: Server, spot: Path) -> None:
    copy = copied(spot, there)
    assert ask("diff", ":zoo/dir", str(copy), socket=there.path) == Done(0, b"", b"")
    assert ask("diff", ":zoo/dir", ":zoo/dirlink/", socket=there.path) == Done(0, b"", b"")


def test_each_thing_that_differs_is_told(there: Server, spot: Path) -> None:
    copy = copied(spot, there)
    (copy / "more").touch()
    (copy / "sub/deep.c").unlink()
    os.chmod(copy / "in.c", 0o600)
    os.chown(copy / "in.c", 7, 8)
    os.utime(copy / "IN.C", (5, 5))
    os.unlink(copy / "up")
    os.symlink("elsewhere", copy / "up")
    os.unlink(copy / "same")
    os.mkdir(copy / "same")
    (copy / "sub/deepest/x").write_bytes(b"z" * os.stat(there.tree / "zoo/dir/sub/deepest/x").st_size)
    done = ask("diff", "--ignore=times", ":zoo/dir", str(copy), socket=there.path)
    here = os.fsencode(copy)
    mode = f"{os.stat(there.tree / 'zoo/dir/in.c').st_mode & 0o7777:04o}".encode()
    assert done.status == 1 and done.err == b""
    assert done.out.splitlines() == [
        b"Files :zoo/dir/in.c and %s/in.c differ: mode %s and 0600, owner 0:0 and 7:8" % (here, mode),
        b"Only in %s: more" % here,
        b"File :zoo/dir/same is a regular file while file %s/same is a directory" % here,
        b"Only in :zoo/dir/sub: deep.c",
        b"Files :zoo/dir/sub/deepest/x and %s/sub/deepest/x differ: contents" % here,
        b"Files :zoo/dir/up and %s/up differ: contents" % here,
    ]
    told = ask("diff", str(copy), ":zoo/dir", "-q", socket=there.path).out.splitlines()
    assert b"Files %s/IN.C and :zoo/dir/IN.C differ" % here in told and b"Only in %s: more" % here in told
    objects = [json.loads(line) for line in ask("diff", "--json", ":zoo/dir", str(copy), socket=there.path).out.splitlines()]
    assert {"path": "/more", "only_in": "other", "type": "file"} in objects
    (changed,) = (found for found in objects if found["path"] == "/in.c")
    assert changed["differs"] == ["mode", "owner"] and changed["other"] == {"mode": "0600", "owner": "7:8"}
    assert ask("diff", "-x*", ":zoo/dir", str(copy), "--ignore=times", socket=there.path) == Done(0, b"", b"")


def test_lines_are_shown_as_diff_u_does(there: Server, spot: Path) -> None:
    (spot / "lines").write_bytes((there.tree / "zoo/lines").read_bytes().replace(b"7\n", b"seven\n") + b"no end")
    done = ask("diff", "-u", "--ignore=times,mode", ":zoo/lines", str(spot / "lines"), socket=there.path)
    theirs = subprocess.run(["diff", "-u", there.tree / "zoo/lines", spot / "lines"], stdout=subprocess.PIPE).stdout
    assert done.status == 1 and done.out.split(b"\n")[2:-2] == theirs.split(b"\n")[2:-1]
    assert ask("diff", "-u", ":zoo/lines", ":zoo/lines", socket=there.path) == Done(0, b"", b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([":missing", "."], "diff :missing: No such file or directory"),
        ([":zoo", "/nonexistent"], "diff /nonexistent: No such file or directory"),
        (["/tmp", "/tmp"], "diff: both are local; give SERVER[:PATH] for one at least, or use diff(1)"),
        ([":zoo", ".", "--ignore=all"], "diff: --ignore all: these can be ignored: mode owner times contents"),
        (["/no/socket:x", "."], "cannot connect to /no/socket: No such file or directory; is the server running (gofer serve)?"),
    ],
)
def test_trouble_of_diff_is_status_two(there: Server, words: "list[str]", told: str) -> None:
    assert ask("diff", *words, socket=there.path) == Done(2, b"", f"gofer: {told}\n".encode())


# sum


def test_a_tree_is_summed_up_and_checked(there: Server, spot: Path) -> None:
    listed = ask("sum", ":zoo/dir", socket=there.path)
    assert listed.status == 0 and listed.out.count(b"\n") == 5
    run = subprocess.run(["sha256sum", "-c", "--quiet"], input=listed.out, cwd=there.tree, capture_output=True)
    assert (run.returncode, run.stdout) == (0, b"")
    (spot / "list").write_bytes(listed.out)
    assert ask("sum", "-c", str(spot / "list"), ":", socket=there.path).out.count(b": OK\n") == 5
    assert ask("sum", "-c", "-", ":zoo", socket=there.path, stdin=listed.out.replace(b"zoo/", b"")).status == 0
    assert ask("sum", "-c", str(spot / "list"), "--status", ":", socket=there.path) == Done(0, b"", b"")
    names = [json.loads(line)["path"] for line in ask("sum", "--json", ":zoo/dir", socket=there.path).out.splitlines()]
    assert sorted(names) == names and len(names) == 5


def test_what_is_not_as_listed_is_told(there: Server) -> None:
    good = ask("sum", ":zoo/lines", socket=there.path).out
    text = good + b"0" * 64 + b"  zoo/noend\n" + b"0" * 64 + b"  zoo/missing\n" + b"no such line\n"
    done = ask("sum", "-c", "-", ":", socket=there.path, stdin=text)
    assert (done.status, done.out) == (1, b"zoo/lines: OK\nzoo/noend: FAILED\nzoo/missing: FAILED open or read\n")
    assert done.told.splitlines() == [
        "sum zoo/missing: No such file or directory",
        "sum -: 1 lines are no lines of such a list",
        "sum -: 1 listed files could not be read",
        "sum -: 1 computed checksums did NOT match",
    ]
    done = ask("sum", "-c", "-", "--status", ":", socket=there.path, stdin=text)
    assert done == Done(1, b"", b"gofer: sum zoo/missing: No such file or directory\n")
    few = good + b"0" * 64 + b"  zoo/missing\n"
    assert ask("sum", "-c", "-", "--quiet", "--ignore-missing", ":", socket=there.path, stdin=few) == Done(0, b"", b"")
    assert ask("sum", "-c", "-", "--strict", ":", socket=there.path, stdin=good + b"x\n").status == 1
    empty = ask("sum", "-c", "-", ":", socket=there.path, stdin=b"x\n")
    assert empty.status == 1 and "nothing in it was checked" in empty.told


# readlink, realpath: what a process whose root is the tree would see

CANONICAL = {  # path: with -e, without, with -m; None: an error
    "zoo/link": ("/zoo/plain", "/zoo/plain", "/zoo/plain"),
    "zoo/dirlink/../link": ("/zoo/plain", "/zoo/plain", "/zoo/plain"),
    "zoo/dangling": (None, "/zoo/nowhere", "/zoo/nowhere"),
    "zoo/dir/up/dir": ("/zoo/dir", "/zoo/dir", "/zoo/dir"),
    "/../..": ("/", "/", "/"),
    "missing": (None, "/missing", "/missing"),
    "missing/": (None, "/missing", "/missing"),
    "missing/x": (None, None, "/missing/x"),
    "missing/x/../..": (None, None, "/"),
    "zoo/plain/x": (None, None, "/zoo/plain/x"),
    "zoo/loop": (None, None, None),
}


@pytest.mark.slow
def test_paths_are_told_without_links(there: Server) -> None:
    for path, (existing, usual, missing) in CANONICAL.items():
        for want, options in ((existing, ["-e"]), (usual, []), (missing, ["-m"])):
            done = ask("realpath", *options, f":{path}", socket=there.path)
            assert (done.status, done.out.decode()) == ((1, "") if want is None else (0, want + "\n")), (path, options)
            done = ask("readlink", *(options or ["-f"]), f":{path}", socket=there.path)
            assert (done.status, done.out.decode(), done.err) == ((1, "", b"") if want is None else (0, want + "\n", b""))


def test_a_tree_is_drawn(there: Server) -> None:
    done = ask("tree", ":zoo/dir", socket=there.path)
    assert done.out.decode() == (
        "zoo/dir\n├── IN.C\n├── in.c\n├── same\n├── sub\n│\u00a0\u00a0 ├── deep.c\n│\u00a0\u00a0 ├── deepest\n"
        "│\u00a0\u00a0 │\u00a0\u00a0 └── x\n│\u00a0\u00a0 └── round -> ../../dir\n└── up -> ..\n\n3 directories, 7 files\n"
    )
    assert ask("tree", "-d", "-L1", ":zoo/dir", socket=there.path).out.decode() == "zoo/dir\n└── sub\n\n2 directories\n"


def test_json_has_an_object_a_line_and_any_name(there: Server) -> None:
    for command in (["ls", "--json", "-A", ":zoo"], ["find", ":zoo", "-maxdepth", "1", "-mindepth", "1", "--json"]):
        done = ask(*command, socket=there.path)
        objects = {os.path.basename(os.fsencode(found["path"])): found for found in map(json.loads, done.out.splitlines())}
        assert sorted(objects) == sorted(os.listdir(os.fsencode(there.tree / "zoo")))
        for name, found in objects.items():
            host = os.lstat(os.fsencode(there.tree / "zoo") + b"/" + name)
            assert (found["size"], found["mtime_ns"], found["uid"]) == (host.st_size, host.st_mtime_ns, host.st_uid)
        assert objects[b"link"]["target"] == "plain" and objects[b"null"]["rdev"] == [1, 3]
    (one,) = map(json.loads, ask("stat", "--json", ":zoo/big", socket=there.path).out.splitlines())
    assert (one["type"], one["nlink"], one["path"]) == ("file", 2, "zoo/big")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-nmae x", "-nmae: no such test or action here; `gofer find --help` lists those that there are"),
        ("-name", "-name needs a word behind it"),
        ("( -name x", "a ( without its ); both are words of their own, quoted for the shell"),
        ("-name x )", "')' where the expression should have ended; put what belongs together in ( )"),
        ("-name x -o", "the expression ends where a test should be"),
        ("-type q", "-type q: letters of f d l p s c b, with commas between them"),
        ("-size big", "-size big: must be a number, with + (more than) or - (less than) before it"),
        ("-perm 9", "-perm 9: a mode, octal or as in u+w,g=r, with - (all of these bits) or / (any of them) before it"),
        ("-regex \\(", "-regex \\(: missing ), unterminated subpattern at position 0; it is read as findutils-default: "
         "-regextype before it says otherwise"),
        ("-regextype perl -regex x", "-regextype perl: one of findutils-default emacs posix-basic posix-minimal-basic ed sed "
         "grep posix-extended posix-egrep egrep gnu-awk posix-awk"),
        ("-xtype q", "-xtype q: letters of f d l p s c b, with commas between them"),
        ("-printf %F", "%F is nothing that -printf tells: see `man 1 find`; %F and %Z no server knows"),
        ("-exec", "-exec needs a command, and \\; or {} + at its end"),
        ("-exec rm x", "-exec needs a command, and \\; or {} + at its end"),
        ("-exec ;", "-exec needs a command, and \\; or {} + at its end"),
        ("-ok rm {} +", "-ok ... {} + runs a command with all of the names behind its words, and asks nobody"),
        ("-execdir rm {} ;", "-execdir: no such test or action here; `gofer find --help` lists those that there are"),
        ("-user nobody-here", "-user nobody-here: must be the name of a user, or a number from 0 to 4294967294"),
        ("-group nobody-here", "-group nobody-here: must be the name of a group, or a number"),
        ("-maxdepth x", "-maxdepth x: must be a number of levels"),
        ("-newer /missing", "/missing: No such file or directory; a path is one on the server of the first operand"),
    ],
)
def test_what_is_wrong_with_an_expression_is_told(there: Server, words: str, told: str) -> None:
    assert ask("find", ":zoo", *words.split(), socket=there.path) == Done(1, b"", f"gofer: find: {told}\n".encode())


def test_numbers_that_are_none_are_told(there: Server) -> None:
    for words, what in (("head -n x", "lines"), ("tail -c 5X", "bytes")):
        done = ask(*words.split(), ":zoo/lines", socket=there.path)
        text = words.split()[-1]
        assert done.told == f"{words.split()[0]}: {text!r} must be a number of {what}, as 10, -10 or 5K\n" and done.status == 1


# What changes


def test_find_deletes_what_it_finds_and_tells_what_it_may_not(start: Start) -> None:
    server, other = start(), start("--read-only")
    (server.tree / "d/e").mkdir(parents=True)
    for name in ("a.o", "d/b.o", "d/e/c.o", "d/keep"):
        (server.tree / name).touch()
    done = ask("find", ":", "-name", "*.o", "-delete", socket=other.path)
    assert done.status == 1 and done.told.count("Read-only file system; the server was started with --read-only") == 3
    assert ask("find", ":", "-name", "*.o", "-delete", "-print", socket=server.path).out.count(b".o\n") == 3
    done = ask("find", ":d", "-delete", socket=server.path)
    assert done == Done(0, b"", b"") and os.listdir(server.tree) == []
    assert ask("find", ":", "-delete", socket=server.path) == Done(0, b"", b"")


def test_tail_goes_on_with_what_is_added(start: Start) -> None:
    server = start()
    log = server.tree / "log"
    log.write_text("one\ntwo\n")
    argv = [*GOFER, "tail", "-f", "-n1", "-s0.01", f"{server.path}:log"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == b"two\n"
        with open(log, "a") as file:
            file.write("three\n")
        assert running.stdout.readline() == b"three\n"
        log.write_text("new\n")
        assert running.stdout.readline() == b"new\n"
        assert b"it was truncated: from its beginning again" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 130


def test_tail_ends_with_the_server_though_it_holds_the_file(start: Start) -> None:
    server = start()
    (server.tree / "log").write_text("one\n")
    argv = [*GOFER, "tail", "-f", "-s0.01", f"{server.path}:log"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == b"one\n"
        server.stop()
        assert running.wait(PATIENCE) == 1
        told = rb"gofer: .*: (the server closed the connection|the server shut the channel down); its log says why\n"
        assert re.fullmatch(told, running.stderr.read())


def test_a_block_device_is_told_as_what_is_never_served(start: Start) -> None:
    server = start()
    os.mknod(server.tree / "block", 0o60600, os.makedev(7, 0))
    for command in (["cat", ":block"], ["stat", ":block"], ["du", ":"], ["find", ":", "-size", "0"]):
        done = ask(*command, socket=server.path)
        assert done.status == 1 and "block: Operation not permitted; block devices are never served" in done.told, done


def test_a_fifo_is_read_where_the_server_opens_it(start: Start) -> None:
    server = start("--host-fifo=open")
    os.mkfifo(server.tree / "fifo")
    with subprocess.Popen([*GOFER, "cat", f"{server.path}:fifo"], stdout=subprocess.PIPE) as running:
        with open(server.tree / "fifo", "wb") as fifo:
            fifo.write(b"through")
        assert running.stdout is not None and running.stdout.read() == b"through"


def test_a_link_of_directories_in_a_tree_of_one_file_is_told(start: Start, spot: Path) -> None:
    (spot / "file").write_bytes(b"alone")
    server = start(tree=spot / "file")
    assert ask("cat", ":", socket=server.path).out == b"alone"
    assert ask("ls", "-1", ":", socket=server.path).out == b"/\n"
    assert "Not a directory" in ask("cat", ":x", socket=server.path).told


# On a terminal


def on_terminal(width: int, argv: "list[str]", **popen: object) -> bytes:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, width, 0, 0))
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs, **popen) as running:  # type: ignore[call-overload]
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # EIO: nobody has it open any more
            pass
        running.wait(CALM)
    os.close(ours)
    return b"".join(parts)


@pytest.mark.parametrize("width", [20, 40, 132])
@pytest.mark.parametrize("options", ["", "-l", "-F --color=auto"])
def test_a_terminal_gets_columns_and_names_that_cannot_speak_to_it(there: Server, options: str, width: int) -> None:
    mine = {"env": {**WORLD, "GOFER_SOCKET": str(there.path)}}
    theirs = on_terminal(width, ["ls", *options.split(), "zoo"], cwd=there.tree, env=WORLD)
    ours = on_terminal(width, [*GOFER, "ls", *options.split(), ":zoo"], **mine)
    assert ours == theirs and b"\x1b[31mred" not in ours


def test_no_command_lets_a_name_speak_to_the_terminal(there: Server) -> None:
    mine = {"env": {**WORLD, "GOFER_SOCKET": str(there.path)}}
    name = "zoo/\x1b[31mred"
    for words in (
        "find :zoo", "du -a :zoo", "tree :zoo", f"stat :{name}", f"sum :{name}", f"realpath :{name}", "diff /tmp :zoo",
        f"readlink -f :{name}", f"head -v :{name}", f"tail -v :{name}", f"df :{name}", f"get -n :{name} /tmp",
    ):  # fmt: skip
        shown = on_terminal(80, [*GOFER, *words.split(" ")], **mine)
        assert b"red" in shown and b"\x1b" not in shown, words


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree(spot: Path) -> None:
    """A million names in one directory, which no disk of a test has room for."""
    from liar import DIRSTAT, GETDENTS, Liar

    names = [b"name-%05d" % number for number in range(2000)]
    block = struct.pack("<H", 2000) + b"".join(struct.pack("<QIIQBH", 9, 1, 8, 1, 8, len(name)) + name for name in names)
    for command in (["find", "-name", "x"], ["ls", "-U1"]):
        liar = Liar(spot / "socket")
        left = [500]

        def answer(request: bytes, left: "list[int]" = left) -> bytes:
            left[0] -= 1
            return block if left[0] >= 0 else struct.pack("<H", 0)

        liar.answers[GETDENTS] = answer
        liar.answers[DIRSTAT] = 95
        words = [command[0], f"{spot}/socket:", *command[1:]] if command[0] == "find" else [*command, f"{spot}/socket:"]
        # Asked by a small process: the peak of who forks counts as that of the child.
        code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        argv = [sys.executable, "-c", code, *GOFER, *words]
        peak = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=CALM).stdout
        assert int(peak) < 64 * 1024 and left[0] < 0
        liar.close()
        (spot / "socket").unlink()



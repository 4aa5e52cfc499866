"""Commands beside those of the host of the same name, on the same tree: byte for byte what they print, and their exit status."""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest
from asks import WORLD, Done, ask, served, zoo
from disks import serving, tmpfs
from hosts import CALM, Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def there() -> Iterator[Server]:
    with served(zoo) as server:
        yield server


def native(server: Server, *argv: str) -> Done:
    run = subprocess.run(argv, cwd=server.tree, env=WORLD, capture_output=True, timeout=CALM, stdin=subprocess.DEVNULL)
    return Done(run.returncode, run.stdout, run.stderr)


def both(server: Server, *argv: str) -> "tuple[Done, Done]":
    """A word without a dash is a path, in the tree for us and from the working directory for the host's program."""
    at = next((i for i, word in enumerate(argv) if i and word[:4] != "zoo/" and word != "zoo" and argv[0] == "find"), len(argv))
    words = [f":{word}" if word.split("/")[0] in ("zoo", "missing") and i < at else word for i, word in enumerate(argv)]
    return native(server, *argv), ask(*words, socket=server.path)


def same(server: Server, *argv: str, in_order: bool = True) -> None:
    theirs, ours = both(server, *argv)
    if not in_order:
        theirs, ours = (done._replace(out=b"\n".join(sorted(done.out.split(b"\n")))) for done in (theirs, ours))
    assert ours.out == theirs.out
    assert ours.status == theirs.status
    assert ours.err.count(b"\n") == theirs.err.count(b"\n"), ours.err


LS = [
    "", "-l", "-a", "-A", "-lA", "-R", "-lR", "-AR", "-i", "-s", "-is", "-lsi", "-lS", "-S", "-Sr", "-lt", "-t", "-tr", "-ltr",
    "-1", "-1A", "-lh", "-sh", "-lhS", "-d", "-ld", "-n", "-F", "-lF", "-p", "-C", "-CF", "-CA", "-Ci", "-lu", "-ltu", "-u",
    "-lc", "-c", "-ltc", "-r", "-lr", "-lL", "-LF", "-H", "-lH", "--full-time", "-l --time-style=long-iso",
    "-l --time-style=full-iso", "-l --time-style=iso", "-l --time-style=+%Y/%d", "--color=always", "-l --color=always",
    "-C --color=always", "--color=never", "--color=auto -l", "-lN", "-l --time-style=+\udcff%Y",
]  # fmt: skip


@pytest.mark.parametrize("options", LS)
def test_ls(there: Server, options: str) -> None:
    same(there, "ls", *options.split(), "zoo")


@pytest.mark.parametrize(
    "words",
    [
        "zoo/plain zoo/dir zoo/link", "-l zoo/plain zoo/dir zoo/link zoo/dirlink", "zoo/dirlink", "zoo/dirlink/",
        "-l zoo/dirlink/", "-d zoo/dirlink zoo/dir", "-lH zoo/dirlink", "-LR zoo/dir", "zoo/missing",
        "zoo/missing zoo/plain zoo/dir", "-L zoo/dangling", "-H zoo/dangling", "zoo/dangling", "zoo/loop", "-l zoo/loop",
        "-F zoo/dirlink", "-lF zoo/link zoo/null", "zoo/plain/", "-R zoo/dir zoo/.hidden", "zoo/empty", "-l zoo/empty",
        "-lr zoo/null zoo/dir zoo/big zoo/empty",
    ],
)  # fmt: skip
def test_ls_of_operands(there: Server, words: str) -> None:
    same(there, "ls", *words.split())


@pytest.mark.parametrize("colors", [
    "or=40;31;01:mi=00:di=1:*.c=32:ex=", "mi=31:ln=target", "no=0:fi=36:*.C=01;35:ow=0:st=0:tw=0",
])
def test_ls_in_colors_of_ones_own(there: Server, colors: str) -> None:
    for options in (["-C"], ["-l"], ["-l", "zoo/dir"]):
        argv = ["ls", "--color=always", *options, "zoo"]
        run = subprocess.run(argv, cwd=there.tree, env={**WORLD, "LS_COLORS": colors}, capture_output=True, timeout=CALM)
        words = [f":{word}" if word.startswith("zoo") else word for word in argv]
        assert ask(*words, socket=there.path, LS_COLORS=colors).out == run.stdout


def test_an_ls_that_is_not_sorted_has_all(there: Server) -> None:
    same(there, "ls", "-U", "zoo", in_order=False)
    same(there, "ls", "-lU", "zoo", in_order=False)


STAT = [
    "", "-L", "-t", "-c %", "-c %n%",
    "-c %n|%N|%a|%A|%b|%B|%d|%D|%f|%F|%g|%G|%h|%i|%o|%s|%t|%T|%u|%U|%w|%W|%x|%X|%y|%Y|%z|%Z|%r|%R|%Hd|%Ld|%Hr|%Lr",
    "-c %10s|%-10s|%010s|%#a|%#f|%+s|%.3Y|%.0Y|%.4X|%-15.2Zx|%08a|%.2n|%5n|%%|%-12Ux|%12U", "--printf %n\\t%s\\n\\101\\60",
]  # fmt: skip
FILES = [
    "plain", "big", "link", "dir", "fifo", "null", "wide", "sock", "old", "oldest", "late", "y2262", "setuid", "none", "odd",
]


@pytest.mark.parametrize("options", STAT)
def test_stat(there: Server, options: str) -> None:
    option, _, form = options.partition(" ")
    words = [option, form] if form else [option] if option else []
    same(there, "stat", *words, *(f"zoo/{name}" for name in FILES))


@pytest.mark.parametrize("options", ["", "-n", "-b", "-s", "-E", "-T", "-v", "-A", "-e", "-t", "-ns", "-nE", "-bs", "-u"])
def test_cat(there: Server, options: str) -> None:
    same(there, "cat", *options.split(), "zoo/lines", "zoo/noend", "zoo/none", "zoo/gaps", "zoo/big", "zoo/link")


COUNTS = [
    "", "-n3", "-n0", "-n100", "-n-3", "-n-100", "-n+3", "-n+0", "-n+100", "-c5", "-c-5", "-c0", "-c+4", "-c1K", "-c-1kB",
    "-c99999999", "-q", "-v", "-z", "-n30", "-n-30", "-c+99", "-n70000",
    "-n9223372036854775807", "-c+99999999999", "-c-9223372036854775807", "-n-9223372036854775807",
]  # fmt: skip


@pytest.mark.parametrize("command", ["head", "tail"])
@pytest.mark.parametrize("options", COUNTS)
def test_head_and_tail(there: Server, command: str, options: str) -> None:
    if command == "tail" or "+" not in options:
        same(there, command, *options.split(), "zoo/lines", "zoo/noend", "zoo/none", "zoo/big")
        same(there, command, *options.split(), "zoo/big")


def test_head_and_tail_take_a_number_alone(there: Server) -> None:
    same(there, "head", "-3", "zoo/lines")
    same(there, "tail", "-3", "zoo/lines")
    same(there, "head", "zoo/missing", "zoo/lines", "zoo/dir", "zoo/noend")


FIND = [
    "", "-name *.c", "-iname *.c", "-name .*", "-path *sub*", "-ipath *SUB*", "-name [!a-p]*", "-name n[[:alpha:]]*", "-name ?",
    "-name ü*", "-name *[[:space:]]*", "-name \\*", "-name *\\**", "-name {", "-lname no*", "-type f", "-type d", "-type l",
    "-type p", "-type c", "-type s", "-type f,d", "-size 0", "-size 1", "-size +1", "-size -2", "-size 3c", "-size +100k",
    "-size 5G", "-size +4G", "-size -6G", "-size 1k", "-size +10w", "-mtime 0", "-mtime +100", "-mtime -1", "-mmin -600",
    "-mmin +5", "-mmin 2", "-atime -1", "-cmin -600", "-mtime +20000", "-newer zoo/plain", "-newer zoo/late",
    "-anewer zoo/plain", "-maxdepth 1", "-mindepth 2", "-maxdepth 2 -mindepth 2", "-maxdepth 0", "-empty", "-empty -type d",
    "-print0", "-perm 644", "-perm -4000", "-perm /222", "-perm 0", "-user root", "-nouser", "-nogroup", "-user 12345",
    "-group 54321", "-uid +100", "-gid 7", "-links +1", "-links 2", "-links -2", "! -name *.c -type f",
    "-name dir -prune -o -print", "( -name big -o -name link ) -print", "-name big -o -name link", "-not -type f -a -name d*",
    "-depth", "-name big -print -o -name link -print0", "-true -false", "-false -o -true", "-xdev -type d", "-samefile zoo/big",
    "-name zoo", "-maxdepth 1 -type d -print -name dir -print", "-d -maxdepth 1", "! ! -name big", "! ( -type d -or -type f )",
    "-wholename zoo/dir/*", "-ls", "-type f -ls -name big -ls", "-regex .*c", "-regex .oo/\\(big\\|link\\)", "-iregex .*/IN.c",
    "-regex .oo/[a-m]+", "-regextype posix-extended -regex .oo/(big|l(ink|ines))", "-regextype posix-basic -regex .*n\\{5,9\\}",
    "-regextype egrep -regex .*/n{255}", "-regextype sed -regex .oo/.i[^a]*", "-regextype sed -regex [[:alpha:]/]*",
    "-regex [[:alpha:]/]*", "-regex .*/[]a[-].*",
    "-regextype emacs -regex .*\\bred", "-regex zoo/.*\\w\\.c$", "-regex ^zoo$", "-regextype posix-extended -regex a|zoo|^z.*g",
    "-regex zoo/*big", "-regex .*/+b.g", "-xtype l", "-xtype f", "-xtype d -o -xtype p,l", "-perm -u+w", "-perm /u=s,g=s",
    "-perm u=rw,g=r,o=r", "-newermt 2018-06-01", "-newermt @1500000000", "! -newerma zoo/plain", "-newercm zoo/plain",
    "-daystart -mtime 0", "-daystart -mtime +7 -type d", "-follow -type l", "-follow -name deep*", "-noleaf -name big -nowarn",
    "-name big -quit", "-type d -exec echo {} ; -print", "-type d -exec echo x{}y{} z ;", "-name *i* -exec echo {} +",
    "-exec false ; -print", "-name big -exec false {} +", "-name big -exec /nonexistent/x ;", "-name big -exec no-such {} +",
    "-name big ! -exec false ; -exec true ; -print", "-depth -type d -exec echo - {} ;",
]  # fmt: skip
PRINTF = [
    "%p|%P|%f|%h|%H|%d\\n", "%s|%b|%k|%S|%n|%i|%D\\n", "%m|%#m|%M|%y|%Y|%l\\n", "%u|%U|%g|%G\\n", "%t|%T@|%T+|%A@|%C@\\n",
    "%TY-%Tm-%Td %TH:%TM:%TS %TZ\\n", "".join(f"%T{letter}|" for letter in "HIklMprTXZaAbBcdDhjmUwWxyY") + "\\n",
    "%10f|%-10f|%.2f|%8.3f|%05d|%-5dx|%3m|%.5m\\n", "\\t\\101\\0a\\\\b\\a%%\\x\\n", "%p\\c%p", "no end",
]  # fmt: skip


@pytest.mark.parametrize("expression", FIND)
def test_find(there: Server, expression: str) -> None:
    words = [f":{word}" if word.startswith("zoo/") and "*" not in word else word for word in expression.split()]
    theirs = native(there, "find", "zoo", *expression.split())
    ours = ask("find", ":zoo", *words, socket=there.path)
    if "-ls" in words:  # how wide its columns are depends on what has come before, and theirs come by inode number
        ours, theirs = (done._replace(out=re.sub(b" +", b" ", done.out)) for done in (ours, theirs))
    assert sorted(ours.out.replace(b"\0", b"\n").split(b"\n")) == sorted(theirs.out.replace(b"\0", b"\n").split(b"\n"))
    assert (ours.out.count(b"\0"), ours.status) == (theirs.out.count(b"\0"), theirs.status)
    assert ours.err.count(b"\n") == theirs.err.count(b"\n"), (ours.err, theirs.err)


def test_find_ls_has_the_columns_of_theirs(there: Server) -> None:
    for name in ("plain", "new\nline", "back\\slash", "link", "two words", "null", "old", "oldest", "late", "dir/sub/deepest"):
        same(there, "find", f"zoo/{name}", "-maxdepth", "0", "-ls")


@pytest.mark.parametrize("form", PRINTF)
def test_find_printf(there: Server, form: str) -> None:
    """%t of what was not looked at by anybody else meanwhile, and no birth time: theirs has another form of none."""
    for start in (["zoo"], ["zoo/dir", "zoo/dirlink/", "zoo/plain"], ["-L", "zoo/dir"]):
        theirs = native(there, "find", *start, "-printf", form)
        ours = ask("find", *(f":{word}" if word[0] != "-" else word for word in start), "-printf", form, socket=there.path)
        assert sorted(ours.out.split(b"\n")) == sorted(theirs.out.split(b"\n"))


@pytest.mark.parametrize(
    "words",
    [
        "-L zoo/dir", "-H zoo/dirlink", "-L zoo/dirlink -type l", "-H zoo/dangling", "-P zoo/dirlink", "zoo/plain zoo/dir",
        "zoo/missing", "zoo/dir/", "zoo/dirlink/", "-L zoo -type l", "-L zoo -type d", "zoo/missing zoo/plain", "-L zoo/loop",
        "zoo/dir -depth -name *c",
    ],
)  # fmt: skip
def test_find_from_operands(there: Server, words: str) -> None:
    argv = ["find", *words.split()]
    theirs, ours = native(there, *argv), ask(*[f":{w}" if w.startswith("zoo") else w for w in argv], socket=there.path)
    assert sorted(ours.out.split(b"\n")) == sorted(theirs.out.split(b"\n"))
    assert (ours.status, ours.err.count(b"\n")) == (theirs.status, theirs.err.count(b"\n"))


DU = [
    "", "-a", "-s", "-c", "-h", "-b", "-ab", "-m", "-k", "-S", "-aS", "-d1", "-d0", "-d 1 -a", "-x", "-l", "-L", "-P", "-0",
    "-sh", "-sb", "--apparent-size", "-ah", "--exclude=*.c -a", "--exclude=sub", "-ac",
]  # fmt: skip


@pytest.mark.parametrize("options", DU)
def test_du(there: Server, options: str) -> None:
    theirs, ours = both(there, "du", *options.split(), "zoo")
    if "-L" in options:  # a link to nothing: theirs is told
        theirs = theirs._replace(status=ours.status)
    assert sorted(ours.out.replace(b"\0", b"\n").split(b"\n")) == sorted(theirs.out.replace(b"\0", b"\n").split(b"\n"))
    assert ours.status == theirs.status


@pytest.mark.parametrize("words", [
    "zoo/plain zoo/dir", "zoo/dir zoo", "zoo zoo/dir", "-s zoo/big zoo/dir zoo", "-D zoo/dirlink", "zoo/dirlink",
    "zoo/missing zoo/dir", "-a zoo/big zoo/dir", "-sc zoo/dir zoo",
])  # fmt: skip
def test_du_of_operands(there: Server, words: str) -> None:
    same(there, "du", *words.split(), in_order=False)


def test_df(there: Server) -> None:
    """Of a file system of its own: the host's others are in use."""
    for options in (["-h"], ["-i"], ["-T"], ["-k"], ["-m"], []):
        theirs, ours = native(there, "df", *options, "zoo"), ask("df", *options, ":zoo", socket=there.path)
        heads = theirs.out.split(b"\n")[0].split(), ours.out.split(b"\n")[0].split()
        assert heads[0] == heads[1] and ours.status == 0
        (row,) = ours.out.splitlines()[1:]
        assert row.split()[0] == os.fsencode(there.path) and row.split()[-1] == b"zoo"
        if "-T" in options:
            kind = theirs.out.splitlines()[1].split()[1]
            assert row.split()[1] in (kind, b"ext2/ext3")


def test_df_of_a_file_system_that_nobody_else_uses() -> None:
    with tmpfs("4M") as place:
        (place / "file").write_bytes(b"x" * 1_234_567)
        with serving(place) as server:
            for options in ([], ["-h"], ["-i"], ["-T"], ["-k"], ["-m"], ["-ih"], ["-hT"]):
                theirs, ours = native(server, "df", *options, "."), ask("df", *options, ":", socket=server.path)
                rows = [done.out.splitlines()[1].split()[1:-1] for done in (theirs, ours)]  # not what is mounted, and where
                assert rows[0] == rows[1] and len(rows[0]) >= 4, options


@pytest.mark.parametrize("options", ["", "-n", "-z", "-v"])
def test_readlink(there: Server, options: str) -> None:
    for words in (["zoo/link"], ["zoo/dangling", "zoo/odd"], ["zoo/plain"], ["zoo/missing", "zoo/link"]):
        theirs, ours = both(there, "readlink", *options.split(), *words)
        assert (ours.out, ours.status) == (theirs.out, theirs.status)
        assert bool(ours.err) == ("-v" in options and b"zoo" in theirs.err)


def test_sum_is_sha256sum(there: Server) -> None:
    names = [name for name in FILES if (there.tree / "zoo" / name).is_file() and name != "late"]
    theirs = native(there, "sha256sum", *(f"zoo/{name}" for name in names), "zoo/new\nline", "zoo/back\\slash")
    ours = ask("sum", *(f":zoo/{name}" for name in names), ":zoo/new\nline", ":zoo/back\\slash", socket=there.path)
    assert ours == theirs
    zeros = ask("sum", "-z", ":zoo/plain", ":zoo/new\nline", socket=there.path)
    assert zeros == native(there, "sha256sum", "-z", "zoo/plain", "zoo/new\nline")


@pytest.mark.parametrize("options", ["", "--quiet", "--status", "--ignore-missing", "--strict", "--ignore-missing --quiet"])
def test_a_list_is_checked_as_sha256sum_checks_it(there: Server, options: str) -> None:
    good = native(there, "sha256sum", "zoo/plain", "zoo/lines", "zoo/new\nline").out
    wrong, gone = b"0" * 64 + b"  zoo/noend\n", b"0" * 64 + b"  zoo/missing\n"
    for text in (good, good + wrong, good + gone, good + b"no such line\n", wrong + gone, b"", b"nothing of it\n"):
        run = subprocess.run(["sha256sum", "-c", *options.split()], cwd=there.tree, env=WORLD, input=text, capture_output=True)
        ours = ask("sum", "-c", "-", *options.split(), ":", socket=there.path, stdin=text)
        assert (ours.out, ours.status) == (run.stdout, run.returncode), text
        assert bool(ours.err) == bool(run.stderr), (text, ours.err, run.stderr)

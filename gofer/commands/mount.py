"""`gofer mount`, `gofer umount`: a served tree as a file system."""

from __future__ import annotations

import os

from gofer import Failure, failure
from gofer.client.address import parse
from gofer.commands.common import add_ssh, ssh_of
from gofer.commands.options import count, explaining, octal_mode, seconds, user
from gofer.output import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

# What mount(8), systemd and fstab(5) say to each other, and flags that are so anyway.
_NOT_FOR_US = {
    "defaults", "rw", "auto", "noauto", "nofail", "user", "nouser", "users", "group", "owner", "_netdev", "nodev", "nosuid",
    "exec", "async", "atime", "diratime", "relatime", "loud",
}  # fmt: skip
_SWITCHES = {"allow-other", "reconnect", "writeback", "foreground", "no-passthrough", "default-permissions"}
_VALUES = {"uid", "gid", "umask", "cache", "timeout", "fd-budget", "node-budget", "name"}
_VALUES |= {"ssh", "remote-gofer", "remote-command"}


def add(parser: ArgumentParser) -> None:
    if parser.get_default("subcommand") == "umount":
        _add_umount(parser)
        return
    parser.description = (
        "Mount what a server serves on a directory. Returns when the file system can be used; `gofer umount DIR` ends it, "
        "and so do SIGTERM and Ctrl-C. Called as mount.gofer it is what mount(8) and /etc/fstab call for the type gofer."
    )
    parser.usage = "%(prog)s [options] SERVER[:PATH] DIR"
    parser.add_argument("address", metavar="SERVER[:PATH]", help="the server's socket, or HOST, and what of it to mount")
    parser.add_argument("place", metavar="DIR", help="an empty directory")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--foreground", action="store_true", help="stay, until it is unmounted")
    group.add_argument("--background", dest="foreground", action="store_false", help="return once it can be used (default)")
    parser.add_argument("--read-only", action="store_true", help="refuse every change")
    parser.add_argument(
        "--cache",
        choices=("none", "auto", "always"),
        default="auto",
        help="how long the kernel takes what it was told for true: not at all, names and attributes for 1 second and data while "
        "size and time of change stay (auto, the default), for ever: where nobody else changes anything",
    )
    parser.add_argument("--writeback", action="store_true", help="let the kernel write later; no passthrough then")
    parser.add_argument(
        "--no-passthrough",
        dest="passthrough",
        action="store_false",
        help="let all data go through this process, also where the kernel could read and write the server's files by itself",
    )
    parser.add_argument("--allow-other", action="store_true", help="let other users in, by the permissions of the files")
    checks = "let the kernel check permissions, as it does with --allow-other, and for all but root"
    parser.add_argument("--default-permissions", action="store_true", help=checks)
    for name, what in (("uid", "owned by this user"), ("gid", "of this group")):
        parser.add_argument(
            f"--{name}",
            type=explaining(user if name == "uid" else _group),
            default=0xFFFFFFFF,
            metavar=name.upper(),
            help=f"show all files as {what}",
        )
    parser.add_argument(
        "--umask", type=explaining(octal_mode), default=0, metavar="OCTAL", help="show all files without these permissions"
    )
    parser.add_argument("--name", metavar="NAME", help="what mount(8) and df(1) show as its source (default: the address)")
    parser.add_argument(
        "--timeout",
        type=explaining(seconds),
        default=30.0,
        metavar="SECONDS",
        help="answer EIO where the server has not answered for so long; 0: never (default: 30)",
    )
    parser.add_argument(
        "--reconnect",
        action="store_true",
        help="where the server goes away, take it up again when it is back; until then all fails, or over ssh waits (--timeout)",
    )
    parser.add_argument(
        "--fd-budget",
        type=explaining(count),
        default=10_000,
        metavar="N",
        help="how many of the server's files to hold beside those in use, each by one of its fds, at most: where it runs out of "
        "them, half of what it had given is given back, and no more is held from then on (default: 10000)",
    )
    parser.add_argument(
        "--node-budget",
        type=explaining(count),
        default=100_000,
        metavar="N",
        help="from how many known files on the kernel is asked to forget some (default: 100000)",
    )
    parser.add_argument(
        "--seccomp",
        choices=("kill", "errno", "log", "off"),
        default="kill",
        help="what a system call gets that the mount process has no use for (default: kill)",
    )
    words = "as in /etc/fstab: these, or ro, noexec, noatime"
    parser.add_argument("-o", dest="words", action="append", default=[], metavar="OPTION,...", help=words)
    add_ssh(parser)
    parser.add_argument("-f", "-n", "-s", "-v", dest="_", action="store_true", help="for mount(8): nothing")
    parser.add_argument("-t", dest="_", metavar="TYPE", help="for mount(8): nothing")


def _add_umount(parser: ArgumentParser) -> None:
    parser.description = "Unmount what gofer mount has mounted."
    parser.add_argument("place", metavar="DIR")
    parser.add_argument(
        "-l", "--lazy", action="store_true", help="take it from sight at once, also where it is in use; it ends with its last use"
    )


def _group(text: str) -> int:
    try:
        return count(text)
    except ValueError:
        pass
    try:
        import grp

        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("must be the name of a group, or a number") from None


def run(options: Any) -> int:
    if options.subcommand == "umount":
        return _umount(options.place, options.lazy)
    flags = _mount_words(options)
    from gofer.fuse import guard
    from gofer.fuse.process import Plan
    from gofer.fuse.state import Options

    address = parse(options.address)
    chosen = Options(
        cache=options.cache, read_only=options.read_only, writeback=options.writeback, passthrough=options.passthrough,
        uid=options.uid, gid=options.gid, umask=options.umask, fd_budget=options.fd_budget, node_budget=options.node_budget,
        timeout=options.timeout,
    )  # fmt: skip
    words = []
    if options.allow_other:
        words.append("allow_other")
    if options.allow_other or options.default_permissions or os.geteuid():
        words.append("default_permissions")
    source = options.name or os.fsdecode(address.shown)
    if not options.place:  # a variable that is not set: not the current directory
        raise Failure("the directory to mount on is empty; give one that is there")
    place = os.path.realpath(options.place)
    plan = Plan(
        address, place, source.replace(",", "_"), chosen, tuple(words), flags, options.foreground, options.seccomp,
        ssh_of(options, not options.read_only) if address.remote else None, options.reconnect,
    )  # fmt: skip
    if options.foreground:
        return guard.run(plan, lambda: None, lambda line: tell(f"gofer: {line}"))
    return _in_background(plan)


def _mount_words(options: Any) -> int:
    """Those of -o, put where the options of the same names are; returns the flags of mount(2)."""
    from gofer.fuse.device import FLAGS

    flags = 0
    for word in ",".join(options.words).split(","):
        name, equals, value = word.partition("=")
        option = name.replace("_", "-")
        if not name or name in _NOT_FOR_US or name.startswith(("x-", "comment")):
            continue
        if word in FLAGS:
            flags |= FLAGS[word]
        elif option in _SWITCHES and not equals:
            setattr(options, *(("passthrough", False) if option == "no-passthrough" else (option.replace("-", "_"), True)))
        elif option in _VALUES and equals:
            setattr(options, option.replace("-", "_"), _value(option, value))
        else:
            raise Failure(f"-o {word}: there is no such option; gofer mount --help lists them")
    options.read_only = options.read_only or bool(flags & 1)
    return flags | int(options.read_only)


def _value(option: str, text: str) -> object:
    kinds: Any = {
        "uid": user, "gid": _group, "umask": octal_mode, "timeout": seconds, "fd-budget": count, "node-budget": count,
    }  # fmt: skip
    if option == "cache" and text not in ("none", "auto", "always"):
        raise Failure(f"-o cache={text}: must be none, auto or always")
    try:
        return kinds.get(option, str)(text)
    except ValueError as why:
        raise Failure(f"-o {option}={text}: {why}") from None


def _in_background(plan: Any) -> int:
    """The guard is a process of its own, which tells by a pipe what became of it."""
    from gofer.fuse import guard

    reader, writer = os.pipe()
    if os.fork() == 0:
        status = 1
        try:
            os.close(reader)
            if not plan.address.remote:  # ssh may have to ask for a password, at the terminal
                os.setsid()
            status = guard.run(plan, lambda: _ready(writer), lambda line: None)
        except Failure as why:
            os.write(writer, str(why).encode("utf-8", "surrogateescape"))
        except OSError as error:
            os.write(writer, str(failure("cannot mount", error)).encode())
        except BaseException as error:
            os.write(writer, f"cannot mount: {type(error).__name__}".encode())
        finally:
            os._exit(status)
    os.close(writer)
    said = b""
    while part := os.read(reader, 65536):
        said += part
    if said != b"+":
        raise Failure(said.decode("utf-8", "surrogateescape") or "the mount ended as soon as it had begun")
    return 0


def _ready(writer: int) -> None:
    from gofer.fuse.process import leave

    leave()
    os.write(writer, b"+")
    os.close(writer)


def _umount(place: str, lazy: bool) -> int:
    from gofer.fuse import device

    # Of the place itself not even the attributes are asked: who would have to answer may be dead.
    parent, name = os.path.split(os.path.abspath(place))
    where = os.path.join(os.path.realpath(parent), name)
    found = [kind for _, at, kind in device.mounts() if at == where]
    if not found or found[-1] != "fuse.gofer":
        raise Failure(f"nothing that gofer has mounted is at {place}; mount -t fuse.gofer lists what is")
    try:
        device.unmount(where, lazy)
    except OSError as error:
        remedy = "fuser -m tells who uses it; -l takes it from sight all the same"
        raise failure(f"cannot unmount {place}", error, remedy) from None
    return 0

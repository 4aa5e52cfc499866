"""What concerns several commands, for `gofer help TOPIC` and for the sections of gofer(1). A blank line ends a paragraph; four
blanks begin a line that stays as it is."""

from __future__ import annotations

TOPICS = {
    "addresses": (
        "how a served file is named: SERVER[:PATH]",
        """\
Commands that look at what is served name a server by the path of its socket,
and behind a colon a path in the tree that it serves:

    gofer ls /run/gofer-4711.sock:/etc
    gofer ls :/etc
    gofer ls build-host:/srv/site

Nothing before the colon means the socket that $GOFER_SOCKET tells, as a
command behind the two dashes of `gofer serve` finds it. A word is a socket's
where there is a / before its first colon, or where a socket of that name
exists; of several such names the longest counts. Without a colon it is the
root of what is served there; where $GOFER_SOCKET is set, it is a path in the
tree.

HOST:PATH, or USER@HOST:PATH, is a directory on another machine: `ssh HOST`
starts a server of it there, for as long as the command takes: a read-only one,
where the command only looks or copies from there.

A server follows no symbolic link. Commands do, inside the tree: an absolute
target begins at its root, and .. stays there.
""",
    ),
    "json": (
        "what commands print for programs",
        """\
With --json a command prints an object a line. `path` is a name as the command
shows it; where it is no UTF-8, its bytes are lone surrogates (\\udcff is the
byte 255), which Python's os.fsencode turns back.

    gofer ls --json :/etc | jq -r 'select(.size > 9999).path'

`ls`, `stat` and `find` tell type, mode (octal), uid, gid, size, nlink, ino,
dev, atime_ns, mtime_ns, ctime_ns (nanoseconds since 1970), and where there is
one rdev, btime_ns, target. Of a name that nobody has looked at, only path and
type are known.

`cat`, `head` and `tail` tell contents in pieces, in their order:

    {"path": "log", "offset": 0, "text": "one\\ntwo\\n"}
    {"path": "log", "offset": 8, "base64": "/wA="}

offset is where in the file the piece begins. It is text where it is UTF-8, with
each letter whole, and base64 where it is not. An empty file is one piece.

`readlink` and `realpath` tell target, or canonical: the path without links.
""",
    ),
    "environment": (
        "variables that have an effect",
        """\
GOFER_SOCKET is the socket of the server that commands ask where none is
named. `gofer serve ... -- COMMAND` sets it for COMMAND.

GOFER_SERVE_... are options of `gofer serve`, each under its own name:
`--read-only` is GOFER_SERVE_READ_ONLY=yes, `--host-uds=all` is
GOFER_SERVE_HOST_UDS=all, and PATH is GOFER_SERVE_PATH. What may be repeated
has blanks between its values:

    GOFER_SERVE_ALLOW_UID="www-data 1000" gofer serve /srv/data

The command line goes before the environment, that before the file (see
`config`), that before the defaults. A variable that begins so and is no
option is an error that names it. A container's gofer reads none of them.

LISTEN_FDS, LISTEN_PID and NOTIFY_SOCKET are systemd's; XDG_RUNTIME_DIR is
where a user's sockets are made, TMPDIR where temporary directories are.
Python's variables have no effect on the one-file program.
""",
    ),
    "config": (
        "options of `gofer serve` in a file",
        """\
`gofer serve --config FILE`, or GOFER_SERVE_CONFIG=FILE, takes options from an
INI file:

    [serve]
    path = /srv/data
    read-only = yes
    allow-uid = www-data 1000

Names are those of the command line without their dashes. A path is taken from
the working directory. What is no option is an error that names it. `gofer
serve --print-config` tells all options, as such a file, and where each is
from, and serves nothing.
""",
    ),
    "exit-status": (
        "what the exit status says",
        """\
0: done. 1: failed, with one line on stderr that names the cause and the
remedy. 2: wrong usage. A command for many files goes on behind one that
cannot be looked at, and says 1 at its end.

`gofer serve ... -- COMMAND` ends with the status of COMMAND. 130: ended by
Ctrl-C. 141: nobody reads the output any more.
""",
    ),
}

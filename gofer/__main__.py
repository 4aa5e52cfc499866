"""Runs gofer: from a checkout (`python3 . serve DIR`, by the link beside it), as `python3 -m gofer` and as the command that pip
installs. The one-file program ends its start with this, too.
"""

import sys

if sys.version_info < (3, 9):
    old = "gofer: needs Python 3.9 or newer, this is %d.%d: run it as `python3.N -IS %s`"
    sys.exit(old % (sys.version_info[0], sys.version_info[1], sys.argv[0]))
if sys.implementation.name != "cpython":
    sys.exit("gofer: needs CPython, this is %s: run it as `python3 -IS %s`" % (sys.implementation.name, sys.argv[0]))
if hasattr(sys, "_jit") and sys._jit.is_enabled():  # CPython 3.14
    sys.exit("gofer: this Python's JIT makes executable memory, which the server's filter forbids: set PYTHON_JIT=0")


def main() -> int:
    """Do what the command line says; returns the exit status."""
    if sys.argv[0].rpartition("/")[2] == "mount.gofer":  # as mount(8) calls what mounts the type gofer
        sys.argv.insert(1, "mount")
    try:
        if sys.argv[1:2] == ["runsc"]:  # without what other commands need: every start of a container waits for this
            from gofer.runsc.redirect import launch

            status = launch(sys.argv[2:])
            if status is not None:
                return status
        from gofer.cli import main as run
        from gofer.cli import name
    except (ImportError, OSError) as error:
        lacks = (
            "this Python lacks a part of its standard library, or cannot read it (Debian's python3-minimal is not enough)"
        )
        sys.exit("gofer: cannot start: %s; %s: install all of it, or run gofer with another" % (error, lacks))
    # Seconds until a thread that has work asks for its turn: each client of a server has a thread, or more.
    sys.setswitchinterval(0.0005)
    called = ["-m", "gofer"] if __package__ == "gofer" else [sys.argv[0]]
    return run(sys.argv[1:], name(sys.argv, getattr(sys, "orig_argv", [sys.executable, *called, *sys.argv[1:]])))


if __name__ == "__main__":
    sys.exit(main())

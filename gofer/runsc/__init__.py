"""The stand-in for `runsc gofer`, and the launcher that makes an unmodified runsc use it.

flags.py      runsc's command line, in Go's flag syntax
features.py   which runsc it is, as far as the command line tells
spec.py       the OCI spec: reading, checks, the mount list
rootfs.py     the root file system: binds, remounts, the new root
resolve.py    a path inside that root
gofer.py      the stand-in itself: the sequence from exec to exit
hostrpc.py    asking runsc to open a mount source (from 2024-11 on)
hooks.py      createContainer hooks (2026)
logs.py       --log-fd, --debug-log-fd
redirect.py   `gofer runsc`: become runsc, with its gofer redirected to this file
tracer.py     the process that does the redirecting
guard.py      what keeps a runsc without a tracer from starting a gofer
calls.py      the launcher's system calls
install.py    `gofer runsc install`: a runtime of Docker, podman, containerd
edits.py      adding an entry to somebody else's JSON or TOML

Nothing is imported here: the way from exec to the first reply is short, and every module on it costs.
For the same reason no module on the stand-in's way imports typing, argparse, json or logging (3 to 20 ms each).
"""

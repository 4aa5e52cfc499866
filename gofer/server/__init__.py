"""What serves: from a listening socket to a reply. docs/design.md tells how the parts meet.

`loop` accepts and ends; a `connection` is a client's socket and its thread, a `channel` shared memory and its thread; both hand a
request to `dispatch`, which finds its handler (gofer/handlers/). `fds` owns every host fd, `comm` is what a handler sees of its
connection, `attrs` and `mounts` are what several handlers need. `admission`, `slots` and `donation` are one client's share;
`kernelfs` and `places` what an inode is; `workers` several processes; `sockets` and `listening` where clients come from.

Imports what is below it, of handlers only in dispatch. A new message is a record in wire.py, a function in handlers/ and its line
in handlers/__init__.py.
"""

"""What a process that serves gives up, layer by layer, so that a client who takes it over gains nothing. SECURITY.md tells why.

`enter` has the order; each layer stands by itself: `namespaces` (with the mounts and the root), `caps`, `landlock`, `seccomp`
(`callnames` has the calls' names). `supervisor` is the process outside, which serves nobody, and to which a `witness` tells what
a filter refused. `posture` is what came of it, in words. `kernel` has the system calls that building a root takes.

A new layer: a module that tries it and says what it missed, its line in `enter`, in posture.LOSSES and in SECURITY.md, a row of
`gofer doctor`, and its test in tests/test_jail.py. Imports `gofer.sys` and nothing of what serves.
"""

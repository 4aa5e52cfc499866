"""`gofer conform`: does a server, anybody's, do what docs/lisafs.md says? A second, independent implementation of a client.

`codec`, `transport`, `peer` and `peer2021` (that dialect) were written from the page alone, and import nothing of ours:
a mistake that `gofer.wire` makes in both directions cannot pass here. `corpus` has a well-formed request of each message. The
tests use all of it.
"""

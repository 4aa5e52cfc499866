"""`gofer conform`: does a server, anybody's, do what docs/lisafs.md says? A second, independent implementation of a client.

`codec`, `transport`, `peer` and `peer2021` (that dialect) were written from the page alone, and import nothing of ours:
a mistake that `gofer.wire` makes in both directions cannot pass here. `corpus` has a well-formed request of each message.

`cases/` has the cases, functions with a sentence for a name (`case` says how); each is given a `stand`: a connection, an empty
directory (`ground`), what the server is known to have. `target` is the server, `runner` runs, `report` tells. The project's own
tests use all of it.
"""

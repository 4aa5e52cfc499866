"""Trees from one side to the other: `gofer get`, `gofer put`, `gofer tar`.

`engine` walks a tree and decides what is to be done, `commit` puts what is complete under its name, `data` moves contents. They
know a side by what `sides` says: `local` does it by directory fds, `remote` by a client. `remove` takes trees away, `names`
says which names may be, `progress` what a person sees (`measure`: of how much). `pack`
and `unpack` are tar streams, whose headers `archive` makes.
"""

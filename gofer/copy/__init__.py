"""Trees from one side to the other: `gofer get`, `gofer put`, `gofer tar`.

`engine` walks a tree and decides what is to be done, `transfer` takes files some at a time from opened to complete, `commit`
puts what is complete under its name, `data` moves contents (`pair`: by two threads). They know a side by what `sides` says:
`local` does it by directory fds (`settle`: what a file has beside contents), `remote` by a client (`posts`: requests whose
answers are taken later). `mend` makes equal what has the same contents, `special` makes what is no file, `links` gives names to
what has several, `prune` and `remove` take away, `names` says which names may be, `progress` what a person sees (`measure`: of
how much). `pack` and `unpack` are tar streams, whose headers `archive` makes.
"""

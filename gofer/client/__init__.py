"""The other side: a connection to a server, and what can be asked over it. Imports `wire` and `sys`, and nothing of the server.

`reach` makes a connection, or says in one line why not; `client` has a method for each message (`client2021` those of 2021),
`ahead` sends requests ahead of their answers, `transport` has the two ways that a message takes, `replies` what comes back.
`pool` is a client for many threads, over channels, `stream` one over a single line; `remote` reaches another host by ssh.
`address` reads SERVER[:PATH], `tree` follows paths, by `way`; `walk` goes through all of a tree, `content` reads a file:

    from gofer.client.address import parse
    from gofer.client.tree import served

    address = parse("/run/gofer.sock:/etc/os-release")      # or ":/etc/os-release", with $GOFER_SOCKET
    with served(address, timeout=30) as tree:               # Failure: one line why not; or why not any more
        node = tree.resolve(address.path)                   # OSError: of this path alone
        with tree.client.opened(node.fd) as fd:
            print(tree.client.pread(fd, 4096, 0))
        tree.drop(node.fd)
"""

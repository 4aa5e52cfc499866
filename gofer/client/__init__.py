"""The other side: a connection to a server, and what can be asked over it. Imports `wire` and `sys`, and nothing of the server.

`reach` makes a connection, or says in one line why not; `client` has a method for each message (`client2021` those of 2021),
`ahead` sends requests ahead of their answers, `transport` has the two ways that a message takes, `replies` what comes back.
`address` reads SERVER[:PATH], `tree` follows paths:

    from gofer.client.address import parse
    from gofer.client.tree import served

    address = parse("/run/gofer.sock:/etc/os-release")      # or ":/etc/os-release", with $GOFER_SOCKET
    with served(address, timeout=30) as tree:               # Failure: one line why not; or why not any more
        node = tree.resolve(address.path)                   # OSError: of this path alone
        with tree.client.opened(node.fd) as fd:
            print(tree.client.pread(fd, 4096, 0))
        tree.drop(node.fd)
"""

"""The other side: a connection to a server, and what can be asked over it. Imports `wire` and `sys`, and nothing of the server.

`reach` makes a connection, or says in one line why not; `client` has a method for each message (`client2021` those of 2021),
`ahead` sends requests ahead of their answers, `transport` has the two ways that a message takes, `replies` what comes back.
"""

"""gofer: holds the host's files on behalf of a sandbox, over LISAFS."""

__version__ = "0.1.0"


class Failure(Exception):
    """What ends a command with exit status 1 and this text as its one line on stderr: the cause, then the remedy."""

"""gofer: holds the host's files on behalf of a sandbox, over LISAFS."""

__version__ = "0.1.0"

"""Runs gofer from a checkout (`python3 . serve DIR`). The one-file program ends its start with this, too."""

import sys

if sys.version_info < (3, 9):
    sys.exit("gofer: needs Python 3.9 or newer, this is Python %d.%d" % sys.version_info[:2])

from gofer.cli import main

sys.exit(main(sys.argv[1:]))

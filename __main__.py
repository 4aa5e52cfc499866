"""Runs gofer from a checkout (`python3 . serve DIR`). The one-file program ends its start with this, too."""

import sys

if sys.version_info < (3, 9):
    old = "gofer: needs Python 3.9 or newer, this is %d.%d: run it as `python3.N -IS %s`"
    sys.exit(old % (sys.version_info[0], sys.version_info[1], sys.argv[0]))

from gofer.cli import main

sys.exit(main(sys.argv[1:], "python3 " + sys.argv[0] if sys.argv[0] in (".", "__main__.py") else sys.argv[0]))

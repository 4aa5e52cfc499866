"""As `gofer.conform.transport`, under the name by which tests know it, and how long a test waits."""

# Seconds until a whole program counts as never. A test waits for what happens, and this long (or PATIENCE) only to fail: a
# machine with other work beside the tests may be thirty times as slow.
CALM = 900

from gofer.conform.transport import *  # noqa: E402, F403

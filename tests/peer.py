"""As `gofer.conform.peer`, under the name by which tests know it."""

from gofer.conform.peer import *  # noqa: F403

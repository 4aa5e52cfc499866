"""As `gofer.conform.peer2021`, under the name by which tests know it."""

from gofer.conform.peer2021 import *  # noqa: F403

"""As `gofer.conform.corpus`, under the name by which tests know it."""

from gofer.conform.corpus import *  # noqa: F403

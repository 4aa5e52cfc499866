"""As `gofer.conform.codec`, under the name by which tests know it."""

from gofer.conform.codec import *  # noqa: F403

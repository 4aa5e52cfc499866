"""What people type: one module for each command, or for a few that are done alike. `gofer.cli` finds them.

Each brings its own options and says what it does (`add`), and runs (`run`), which returns the exit status. What ends a command
otherwise is an exception that cli.py turns into one line: Failure, OSError, Unread, KeyboardInterrupt.
"""

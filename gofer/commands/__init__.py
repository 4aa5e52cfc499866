"""What people type: one module for each command, or for a few that are done alike. `cli.COMMANDS` has a line for each.

    def add(parser: ArgumentParser) -> None     # its description and options; parser.get_default("subcommand") is its name
    def run(options: Namespace) -> int          # does what they say; returns the exit status
    def words(argv: list[str], parser: ArgumentParser) -> list[str]
                                                # where there is one: the command line as argparse can read it

What ends a command otherwise is an exception, of which cli.py makes one line and a status: Failure, OSError, Unread (nobody reads
the output any more), KeyboardInterrupt. `serve` and `runsc` are read by shorter ways of their own, as every start of a container
waits for them.
"""

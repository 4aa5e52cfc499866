"""replay.py socket|channel FILE...: run a fuzz target on inputs, without a fuzzer: what it has found, or seeds."""

import sys
from pathlib import Path

import fuzz_channel
import fuzz_socket
from inside import Inside

TARGETS = {"socket": fuzz_socket.one_input, "channel": fuzz_channel.one_input}


def main(kind: str, *files: str) -> None:
    inputs = [Path(file).read_bytes() for file in files]  # read first: the working directory is about to change
    inside = Inside()
    for file, data in zip(files, inputs):
        try:
            TARGETS[kind](inside, data)
        except BaseException:
            print(f"{file}: the invariant does not hold", file=sys.stderr)
            raise
    inside.close()
    print(f"{len(files)} inputs, all well")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What is read without argparse is what argparse reads; all else is left to it."""

import random
from typing import Any, NoReturn

import pytest
from hosts import run

from gofer import cli
from gofer.commands.plain import Plain

COMMANDS = [command for command in cli.COMMANDS if command not in ("serve", "runsc")]
VALUES = ["5", "x", "auto", "", "-1", "a=b", "-x", "a b", "none", "PATH", "today", "755", "0"]
WORDS = ["a", ":/x", "-", "get", "u+x", "755", "", "list", "bash", "a b", "/dev/null", "x=y"]
ODD = ["--", "--unknown", "-5", "--verb", "-Z", "--json=x", "- x", "-n=5", "--time", "-qq", "-é", "---", "--=", "-n 5"]


class Wrong(Exception):
    pass


def thorough(command: str) -> Any:
    made = cli.parser(command)

    def error(message: str) -> NoReturn:
        raise Wrong(message)

    made.error = error  # type: ignore[method-assign]
    return made


def line(rng: random.Random, options: "dict[str, Any]") -> "list[str]":
    """Options as they may be said, with values and without, and other words, in any order."""
    words: list[str] = []
    for _ in range(rng.randrange(5) if options else 0):
        name = rng.choice(list(options))
        value, kind = rng.choice(VALUES), rng.randrange(8)
        takes = options[name].nargs != 0
        if kind == 0:
            words.append(rng.choice(ODD))
        elif kind == 1:
            words.append(name)
        elif kind == 2:
            words.append(f"{name}={value}")
        elif kind == 3 and not name.startswith("--"):
            words.append(name + rng.choice([value, *(other[1] for other in options if len(other) == 2)]))
        else:
            words += [name, value] if takes else [name]
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
    return words


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_plain_is_read_as_argparse_reads_it_and_all_that_is_wrong_is_left_to_that(command: str) -> None:
    rng, made = random.Random(command), thorough(command)
    options = {name: action for name, action in made._option_string_actions.items() if action.dest != "help"}
    plain = Plain(cli._defaults(command))
    cli._module(command).add(plain)
    count = 0
    for _ in range(3000):
        words = line(rng, options)
        found = plain.read(words)
        if found is not None:
            assert vars(found) == vars(made.parse_intermixed_args(words)), words
            count += 1
        if count == 30:
            break
    assert count == 30 and plain.read(["--help"]) is None


def test_what_is_wrong_is_told_with_the_usage_and_help_is_help() -> None:
    done = run("get", "--no-synk", "a", "b")
    assert done.returncode == 2 and "did you mean --no-sync?" in done.stderr and done.stderr.startswith("usage: ")
    assert run("get", "--help").stdout.startswith("usage: ")

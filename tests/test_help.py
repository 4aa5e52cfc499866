"""`gofer help`, and the manual pages that are made of the same parsers and topics."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CHECKOUT, run

from gofer import __version__, cli
from gofer.commands.topics import TOPICS

sys.path.insert(0, str(CHECKOUT / "onefile"))
import man


@pytest.mark.parametrize("topic", ["serve", "runsc", "help"])
def test_help_of_a_command_is_what_the_command_says_itself(topic: str) -> None:
    told = run("help", topic)
    assert (told.returncode, told.stderr) == (0, "")
    if topic != "runsc":  # whose own text is written
        itself = run(topic, "--help").stdout.split()  # its lines are broken elsewhere, as the program's name has another length
        assert told.stdout.split()[2:] == itself[itself.index(topic) :]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", run(topic, "--help").stdout))
    assert options - {"--help"} <= set(re.findall(r"--[a-z][a-z-]+", told.stdout)) | {"--dry-run"}


@pytest.mark.parametrize("topic", TOPICS)
def test_help_tells_of_topics(topic: str) -> None:
    told = run("help", topic)
    assert (told.returncode, told.stdout) == (0, TOPICS[topic][1])
    assert all(len(line) <= 80 for line in told.stdout.splitlines()), "a terminal has 80 columns"


def test_help_alone_lists_all_commands_and_topics() -> None:
    told = run("help").stdout
    assert all(f"\n  {name} " in told for name in [*cli.COMMANDS, *TOPICS])
    wrong = run("help", "nonsense")
    assert wrong.returncode == 2 and "usage: " in wrong.stderr


def test_what_the_topics_say_of_the_environment_and_of_a_file_is_so(spot: Path) -> None:
    text = TOPICS["config"][1]
    example = re.findall(r"^    (.*)$", text, re.M)
    (spot / "conf").write_text("\n".join(example))
    done = run("serve", "--config", str(spot / "conf"), "--print-config")
    assert "path = /srv/data" in done.stdout and "read-only = yes" in done.stdout, done
    (line,) = re.findall(r"^    (.*)$", TOPICS["environment"][1], re.M)
    variable = re.findall(r'(\w+)="([^"]*)"', line)
    assert run("serve", "/", "--print-config", env={**os.environ, **dict(variable)}).returncode == 0


@pytest.mark.slow
def test_the_manual_pages_tell_every_option_and_mandoc_finds_nothing(spot: Path) -> None:
    argv = [sys.executable, CHECKOUT / "onefile/man.py", spot, "2026-01-02"]
    subprocess.run(argv, check=True, env={**os.environ, "COLUMNS": "40"})
    pages = sorted(spot.iterdir())
    assert {page.name for page in pages} >= {"gofer.1", *(f"gofer-{command}.1" for command in cli.COMMANDS)}
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    for page in pages:
        shown = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, text=True, check=True).stdout
        plain = re.sub(".\x08", "", shown)
        assert f"gofer {__version__}" in plain and "January 2, 2026" in plain.replace("2026-01-02", "January 2, 2026")
        if page.name.startswith("gofer-"):
            parser = cli.parser(page.stem.partition("-")[2])
            told = " ".join(plain.split())
            for action in parser._actions:
                assert all(option in told for option in action.option_strings) or action.help == "==SUPPRESS=="


def test_markdown_becomes_what_man_shows(spot: Path) -> None:
    text = "# Title\n\nA `code`, *words* and **bold** - [link](x.md).\n.not a macro\n\n## Part one\n\n"
    text += "* one\n  goes on\n* two\n\n    code\n    .x\n"
    text += "\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n'fenced\n\n# no heading\n```\n\nThe end.\n"
    (spot / "page.7").write_text(man.protocol_page(text, "2026-01-02"))
    done = subprocess.run(["mandoc", "-T", "ascii", spot / "page.7"], capture_output=True, text=True, check=True)
    plain = re.sub(".\x08", "", done.stdout)
    shown = " ".join(plain.split())
    assert "A code, words and bold - link. .not a macro PART ONE o one goes on o two code .x" in shown
    assert "| a | b | | 1 | 2 |" in shown and "'fenced # no heading The end." in shown

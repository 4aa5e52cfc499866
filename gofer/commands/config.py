"""What `gofer serve` takes from elsewhere than its command line: the environment, and a file.

Each option has one name: `--read-only` is GOFER_SERVE_READ_ONLY there, and `read-only` in section [serve] of the file. The
command line goes before the environment, that before the file, that before the defaults; of an option that may be repeated the
first of these that has it counts, with all it says. GOFER_SOCKET is another thing: the server that clients ask.
This is imported only where there is something to read: a start has no time for configparser.
"""

from __future__ import annotations

import os

from gofer import Failure, __version__, failure
from gofer.commands.options import ELSEWHERE_NOT, SERVE, VARIABLE, given
from gofer.output import printable, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")
_PATH = {"path": {"type": given}}  # what is served may be said elsewhere as well
_OPTIONS: dict[str, dict[str, Any]] = {**_PATH, **{option[2:]: words for option, words in SERVE.items()}}
_KNOWN = _OPTIONS.keys() - {option[2:] for option in ELSEWHERE_NOT}
_COMMAND_LINE, _DEFAULTS = "the command line", "defaults"


def complete(options: Any, words: Sequence[str]) -> None:
    """Set what the command line, `words`, does not say; options.sources tells where each value is from."""
    head = words[: words.index("--")] if "--" in words else words
    said = {option[2:]: "" for option in (word.partition("=")[0] for word in head) if option in SERVE}
    if options.path is not None:
        said["path"] = ""
    environment = _environment()
    file = options.config or environment.pop("config", None)
    options.sources = dict.fromkeys(_OPTIONS, _DEFAULTS)
    for source, values in (
        (f"the file {file}", _file(file) if file else {}),
        ("the environment", environment),
        (_COMMAND_LINE, said),
    ):
        for name, text in values.items():
            options.sources[name] = source
            if source != _COMMAND_LINE and name not in said:
                told = _variable(name) if source == "the environment" else f"{file}: {name}"
                setattr(options, name.replace("-", "_"), _value(told, _OPTIONS[name], text))


def show(options: Any) -> None:
    """All options as a file would say them, by where they are from."""
    say(f"# gofer {__version__}: the command line goes before the environment, that before the file, that before the defaults.")
    say("[serve]")
    sources = options.sources
    for source in dict.fromkeys([*sorted(set(sources.values()) - {_DEFAULTS}), _DEFAULTS]):
        say(f"\n# from {source}:" if source != _DEFAULTS else f"\n# {source}:")
        for name in sources:
            if sources[name] == source and name in _KNOWN:
                value = getattr(options, name.replace("-", "_"))
                say(f"# {name} =" if value is None else f"{name} = {_text(name, value)}")


def _environment() -> dict[str, str]:
    """Option -> text."""
    found = {}
    for variable, text in os.environ.items():
        if variable.startswith(VARIABLE):
            name = variable[len(VARIABLE) :].lower().replace("_", "-")
            if name not in _KNOWN | {"config"} or variable != _variable(name):
                raise Failure(f"{_shown(variable)}: `gofer serve` has no such option; unset it (gofer serve --help)")
            found[name] = text
        elif variable in _NEARLY:
            raise Failure(f"{variable} would have no effect; the name is {_variable(_NEARLY[variable])}")
    return found


def _variable(name: str) -> str:
    return VARIABLE + name.upper().replace("-", "_")


# Whoever has set one of these believes that it holds, `--read-only` for one.
_NEARLY = {_variable(name).replace(VARIABLE, "GOFER_"): name for name in _KNOWN - {"socket"}}


def _file(path: str) -> dict[str, str]:
    """Option -> text, of the file's section [serve]."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None, default_section="\0", delimiters=("=",))
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            parser.read_file(file)
    except OSError as e:
        raise failure(f"cannot read {path}", e, "--config takes a file that you may read") from None
    except configparser.Error as error:
        why = _shown(" ".join(str(error).split()))
        raise Failure(f"{path}: {why}; it is read as an INI file with a section [serve]") from None
    for section in parser.sections():
        if section != "serve":
            raise Failure(f"{path}: [{_shown(section)}]: no such section; options stand in [serve]")
    found = dict(parser["serve"]) if parser.has_section("serve") else {}
    for name in found:
        if name not in _KNOWN:
            raise Failure(f"{path}: {_shown(name)}: `gofer serve` has no such option, or not here; see gofer serve --help")
    return found


def _value(told: str, spec: dict[str, Any], text: str) -> Any:
    """What argparse would make of it. told: whose value it is."""
    try:
        if spec.get("action") == "store_true":
            if text.lower() not in _YES + _NO:
                raise ValueError("must be yes or no")
            return text.lower() in _YES
        if spec.get("action") == "append":
            return [_one(spec, word) for word in text.split()] or None
        return _one(spec, text)
    except ValueError as error:
        raise Failure(f"{told}: {_shown(text)!r} {error}") from None


def _one(spec: dict[str, Any], text: str) -> Any:
    if text not in spec.get("choices", (text,)):
        raise ValueError(f"must be one of {', '.join(spec['choices'])}")
    return spec.get("type", str)(text)


def _text(name: str, value: Any) -> str:
    """As the file has it."""
    if isinstance(value, bool):
        return _YES[0] if value else _NO[0]
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:04o}" if name == "mode" else str(value)


def _shown(text: str) -> str:
    return printable(os.fsencode(text))

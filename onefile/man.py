#!/usr/bin/env python3
"""Makes the manual pages: man.py FOLDER [DATE], from the commands' parsers, their topics and docs/lisafs.md.

gofer.1, gofer-COMMAND.1 for each command, and lisafs.7. DATE: YYYY-MM-DD, or $SOURCE_DATE_EPOCH. The language is that of man(7),
which every formatter reads.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from gofer import __version__, cli  # noqa: E402
from gofer.commands.topics import TOPICS  # noqa: E402

SECTIONS = {
    "addresses": "ADDRESSES", "environment": "ENVIRONMENT", "config": "CONFIGURATION FILE", "json": "OUTPUT FOR PROGRAMS",
    "exit-status": "EXIT STATUS",
}  # fmt: skip


def pages(date: str) -> dict[str, str]:
    """File name -> page."""
    os.environ["COLUMNS"] = "1000"  # argparse wraps nothing
    made = {"gofer.1": overview(date)}
    for command in cli.COMMANDS:
        made[f"gofer-{command}.1"] = command_page(command, date)
    protocol = CHECKOUT / "docs/lisafs.md"
    if protocol.exists():
        made["lisafs.7"] = protocol_page(protocol.read_text(), date)
    return {name: re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", page, flags=re.M) for name, page in made.items()}


def overview(date: str) -> str:
    parts = [_head("gofer", 1, date), _name("gofer", "a file server for sandboxes (gVisor's gofer), and what looks at its files")]
    parts.append('.SH SYNOPSIS\n.B gofer\n.I COMMAND\n.RI [ ARGUMENT "...]"\n')
    about = "A gofer holds the host's files on behalf of a sandbox, which reaches them by the protocol of lisafs(7) alone."
    parts.append(f".SH DESCRIPTION\n{_inline(about)}\n.SH COMMANDS\n")
    parts += [f".TP\n.BR gofer\\-{_escape(name)} (1)\n{_line(what)}.\n" for name, (_, what) in cli.COMMANDS.items()]
    parts += [f".SH {SECTIONS[name]}\n{_body(text)}" for name, (_, text) in TOPICS.items()]
    return "".join(parts) + _see("lisafs", 7)


def command_page(command: str, date: str) -> str:
    parser = cli.parser(command)
    name = f"gofer-{command}"
    parts = [_head(name, 1, date), _name(name, cli.COMMANDS[command][1]), ".SH SYNOPSIS\n.nf\n"]
    usage = parser.format_usage().replace("usage: ", "", 1)
    parts.append("".join(f"{_line(line.strip())}\n" for line in _joined(usage)) + ".fi\n")
    parts.append(f".SH DESCRIPTION\n{_body(parser.description or '')}")
    positionals = [action for action in parser._actions if not action.option_strings and action.help != argparse.SUPPRESS]
    options = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
    for title, actions in (("ARGUMENTS", positionals), ("OPTIONS", options)):
        if actions:
            parts.append(f".SH {title}\n" + "".join(map(_action, actions)))
    if parser.epilog:
        parts.append(f".SH NOTES\n{_body(parser.epilog % {'prog': parser.prog})}")
    parts.append(f".SH EXIT STATUS\n{_body(TOPICS['exit-status'][1])}")
    return "".join(parts) + _see("gofer", 1)


def _joined(usage: str) -> list[str]:
    """Lines of a usage that argparse has wrapped, one for each form."""
    lines: list[str] = []
    for line in usage.splitlines():
        if lines and not line.strip().startswith("gofer "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.strip())
    return lines


def _action(action: argparse.Action) -> str:
    names = ", ".join(f"\\fB{_escape(option)}\\fR" for option in action.option_strings)
    value = ""
    if not action.option_strings or action.nargs != 0:
        value = "|".join(map(str, action.choices)) if action.choices and not action.metavar else str(action.metavar)
        value = f"\\fI{_escape(value)}\\fR"
    told = action.help or ""
    told = (told % {**vars(action), "prog": "gofer"} if "%" in told else told) or "one of these"
    return f".TP\n{names}{' ' * bool(names and value)}{value}\n{_inline(told)}.\n"


def protocol_page(text: str, date: str) -> str:
    """docs/lisafs.md: its first heading and paragraph are the page's name."""
    body = text.partition("\n")[2]
    return _head("lisafs", 7, date) + _name("lisafs", "the file protocol between a gVisor sandbox and its gofer") + (
        f".SH DESCRIPTION\n{_body(body)}" + _see("gofer", 1)
    )


def _head(name: str, section: int, date: str) -> str:
    return f'.TH {_escape(name.upper())} {section} {date} "gofer {__version__}"\n'


def _name(name: str, what: str) -> str:
    return f".SH NAME\n{_escape(name)} \\- {_escape(what)}\n"


def _see(name: str, section: int) -> str:
    return f".SH SEE ALSO\n.BR {name} ({section})\n"


def _body(text: str) -> str:
    """Markdown as the pages here are written: headings, paragraphs, lists, tables, code."""
    parts: list[str] = []
    kind = ""
    for line in text.strip("\n").split("\n"):
        item = _ITEM.match(line)
        new = _kind(line, kind, bool(item))
        if new != kind or item and new == "item":
            parts.append(_END.get(kind, "") + _BEGIN.get(new, ""))
        kind = new
        if new == "heading":
            parts.append(_heading(line))
        elif new in ("code", "fenced", "table"):
            rule = new == "table" and set(line) <= set("|-: ")
            parts.append("" if rule or line.startswith("```") else _verbatim(line))
        elif line and not line.startswith("```"):
            parts.append(_line(_ITEM.sub("", line.strip())) + "\n")
    body = "".join([*parts, _END.get(kind, "")])
    return re.sub(r"(\\&\n)+(?=\.fi)", "", body)  # blank lines at the end of code


def _kind(line: str, before: str, item: bool) -> str:
    if before == "fenced":
        return "" if line.startswith("```") else "fenced"
    if line.startswith("```"):
        return "fenced"
    if not line:
        return before if before == "code" else ""
    if line.startswith("    ") and before not in ("text", "item"):
        return "code"
    if line.startswith("|"):
        return "table"
    if line.startswith("#"):
        return "heading"
    return "item" if item or before == "item" else "text"


_ITEM = re.compile(r"^(?:[-*]|\d+\.) +")
_BEGIN = {
    "code": ".PP\n.RS 4\n.nf\n", "fenced": ".PP\n.RS 4\n.nf\n", "table": ".PP\n.nf\n", "item": ".IP \\(bu 2\n", "text": ".PP\n",
}  # fmt: skip
_END = {"code": ".fi\n.RE\n", "fenced": ".fi\n.RE\n", "table": ".fi\n"}


def _heading(line: str) -> str:
    level = len(line) - len(line.lstrip("#"))
    macro, title = (".SH", line.lstrip("# ").upper()) if level <= 2 else (".SS", line.lstrip("# "))
    return f"{macro} {_inline(title)}\n"


def _verbatim(line: str) -> str:
    return _guarded(_escape(line[4:] if line.startswith("    ") else line)) + "\n" if line else "\\&\n"


def _line(text: str) -> str:
    return _guarded(_inline(text))


def _inline(text: str) -> str:
    """Code and links of a line; the rest is plain."""
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*|(?<![\w*])\*[^*\s][^*]*\*(?!\w)|\[[^]]+\]\([^)]+\))", text)
    return "".join(map(_span, parts))


def _span(part: str) -> str:
    if part[:1] == "`" and part[-1:] == "`" and len(part) > 1:
        return f"\\fB{_escape(part[1:-1])}\\fR"
    if part.startswith("**") and len(part) > 4:
        return f"\\fB{_escape(part[2:-2])}\\fR"
    if part.startswith("*") and part.endswith("*") and len(part) > 2:
        return f"\\fI{_escape(part[1:-1])}\\fR"
    link = re.fullmatch(r"\[([^]]+)\]\(([^)]+)\)", part)
    return _escape(link.group(1)) if link else _escape(part)


def _escape(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq").replace("^", "\\(ha")
    text = text.replace("~", "\\(ti").replace('"', "\\(dq")
    return "".join(c if c < "\x7f" else f"\\[u{ord(c):04X}]" for c in text)


def _guarded(line: str) -> str:
    """No line of text is taken for a macro."""
    return f"\\&{line}" if line[:1] in (".", "'") else line


def date_of(args: list[str]) -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return args[0] if args else time.strftime("%Y-%m-%d", time.gmtime(int(epoch) if epoch else None))


def main(args: list[str]) -> int:
    if not 1 <= len(args) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(args[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages(date_of(args[1:])).items():
        (folder / name).write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

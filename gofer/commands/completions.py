"""`gofer completions bash|zsh|fish`: what those shells read to complete the words of `gofer`.

Each script is short: at a TAB it runs the program itself, gives it the words on stdin and gets candidates, so that they are
those of the very version that is installed, and what a server serves can be among them. `--reply SHELL` is how a script asks.
"""

from __future__ import annotations

import os

from gofer.output import put

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from gofer.commands.candidates import Answer

_BASH = r"""# Completion of gofer for bash: source <(gofer completions bash)
_gofer() {
    local kind
    {
        IFS= read -r kind
        mapfile -t COMPREPLY
    } < <(printf '%s\0' "${COMP_LINE:0:COMP_POINT}" "$2" | "${1/#\~\//$HOME/}" completions --reply bash 2>/dev/null)
    case $kind in
        more) compopt -o nospace ;;
        commands) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
        none) compopt +o default +o bashdefault ;;
    esac
}
complete -o default -F _gofer gofer
"""
_ZSH = r"""#compdef gofer
# Completion of gofer for zsh: as _gofer in a directory of $fpath, or source <(gofer completions zsh)
_gofer() {
    local kind line
    local -a said names told
    said=("${(@f)$(printf '%s\0' "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" |
        "${${(Q)words[1]}/#\~\//$HOME/}" completions --reply zsh 2>/dev/null)}")
    kind=$said[1]
    shift said
    case $kind in
        files)
            [[ -z $said[1] ]] || compset -P '*='
            _files
            return
            ;;
        commands)
            _command_names -e
            return
            ;;
    esac
    for line in $said; do
        names+=("${line%%$'\t'*}")
        told+=("${line/$'\t'/  -- }")
    done
    if [[ $kind = more ]]; then
        compadd -S '' -l -d told -a names
    else
        compadd -l -d told -a names
    fi
}
if [[ $funcstack[1] = _gofer ]]; then
    _gofer "$@"
else
    compdef _gofer gofer
fi
"""
_FISH = r"""# Completion of gofer for fish: gofer completions fish | source
function __gofer_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l said (printf '%s\0' $words (commandline -ct) | $program completions --reply fish 2>/dev/null)
    set -l kind $said[1]
    set -e said[1]
    switch "$kind"
        case files
            set -l value (string replace -- "$said[1]" '' (commandline -ct))
            for path in (complete -C "'' $value")
                printf '%s%s\n' "$said[1]" $path
            end
        case commands
            __fish_complete_command
        case '*'
            printf '%s\n' $said
    end
end
complete -c gofer -f -a '(__gofer_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def add(parser: argparse.ArgumentParser) -> None:
    from argparse import SUPPRESS

    parser.description = (
        "Print what a shell reads to complete commands, options, files, and what a server serves. For bash: "
        "`source <(gofer completions bash)` in ~/.bashrc; for zsh the same behind compinit in ~/.zshrc; for fish: "
        "`gofer completions fish > ~/.config/fish/completions/gofer.fish`."
    )
    parser.add_argument("shell", metavar="SHELL", nargs="?", choices=tuple(SCRIPTS), help=", ".join(SCRIPTS))
    parser.add_argument("--reply", metavar="SHELL", choices=tuple(SCRIPTS), help=SUPPRESS)


def run(options: Any) -> int:
    if options.reply:
        _reply(options.reply, options)
    else:
        put(SCRIPTS[options.shell or _own_shell()].encode())
    return 0


def _own_shell() -> str:
    from gofer import Failure

    shell = os.environ.get("SHELL", "").rpartition("/")[2]
    if shell not in SCRIPTS:
        raise Failure(f"which shell? give one of {', '.join(SCRIPTS)}")
    return shell


def _reply(shell: str, options: Any) -> None:
    """Answer a script: the kind, then a candidate a line."""
    with open(0, "rb", closefd=False) as file:
        given = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    if shell == "bash":
        line, piece = given
        words, quote = split(line)
        answer = _answer(words[1:-1], words[-1], options)
        lines = [_for_bash(word, words[-1], piece, quote) for word, _ in answer.words]
    else:
        current = split(given[-1])[0][-1] if shell == "fish" else given[-1]
        answer = _answer(given[:-1], current, options)
        lines = [f"{word}\t{told}" if told else word for word, told in answer.words]
        if answer.kind == "files":
            lines = [answer.head]
    put("".join(f"{line}\n" for line in [answer.kind, *lines]).encode("utf-8", "surrogateescape"))


def _for_bash(word: str, current: str, piece: str, quote: str) -> str:
    """What takes the place of `piece`: bash breaks words at `:` and `=` as well, and replaces the last piece. quote: open."""
    if quote:
        return word[len(current) - len(piece) :].replace(quote, f"{quote}\\{quote}{quote}")
    return _escaped(word[len(current) - len(split(piece)[0][-1]) :])


def _answer(words: Sequence[str], current: str, options: Any) -> Answer:
    from gofer.commands import candidates

    def parsers(words: Sequence[str]) -> tuple[argparse.ArgumentParser, int] | None:
        if words[0] == "runsc" and words[1:2] in (["install"], ["uninstall"]):
            from gofer.runsc.install import parser

            return parser(words[1]), 1  # which is itself one of its words
        return (options.parser(words[0]), 1) if words[0] in options.commands else None

    return candidates.answer(words, current, options.commands, parsers)


def _escaped(word: str) -> str:
    """For a word without quotes."""
    return "".join(c if c.isalnum() or c in "/._-+,:@%=^" else f"\\{c}" for c in word)


def split(line: str) -> tuple[list[str], str]:
    """The words of a line, without quotes, of which the last one is still being typed; the quote that it is in."""
    words, quote, fresh = [""], "", True
    characters = iter(line)
    for c in characters:
        if quote:
            if c == quote:
                quote = ""
            elif c == "\\" and quote == '"':
                words[-1] += next(characters, "")
            else:
                words[-1] += c
        elif c in " \t":
            if not fresh:
                words.append("")
            fresh = True
            continue
        elif c in "'\"":
            quote = c
        else:
            words[-1] += next(characters, "") if c == "\\" else c
        fresh = False
    return words, quote

"""The shell's line at a terminal: editing, history, completion, by the readline of this Python where it has one."""

from __future__ import annotations

import os

from gofer import Failure
from gofer.commands import candidates, typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_HISTORY = 10_000  # lines that are kept
_OWN = ("cd", "pwd", "lcd", "help", "exit")


class Prompt:
    """A context: at its end the history is written."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self._found: list[str] = []
        try:
            import readline
        except ImportError:  # a Python without it: lines are read as they come
            self._readline: Any = None
        else:
            self._readline = readline
        self._file = _history_file()

    def __enter__(self) -> Prompt:
        if self._readline:
            self._readline.set_completer(self._complete)
            self._readline.set_completer_delims(" \t\n")
            self._readline.set_completion_display_matches_hook()
            self._readline.parse_and_bind("tab: complete")
            try:
                self._readline.read_history_file(self._file)
            except OSError:
                pass  # the first time
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._readline:
            self._readline.set_completer(None)
            self._readline.set_history_length(_HISTORY)
            try:
                os.makedirs(os.path.dirname(self._file), mode=0o700, exist_ok=True)
                self._readline.write_history_file(self._file)
                os.chmod(self._file, 0o600)
            except OSError:
                pass  # nowhere to keep it

    def line(self, prompt: str) -> str | None:
        """What was typed; None at the end."""
        try:
            return input(prompt)
        except EOFError:
            return None

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            self._found = self._candidates(text)
        return self._found[state] if state < len(self._found) else None

    def _candidates(self, text: str) -> list[str]:
        line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
        try:
            before = [typed.plain(word) for word in typed.split(line[: self._readline.get_begidx()])]
        except Failure:
            return []
        if not before:
            names = [*self._options.commands, *_OWN]
            return [f"{name} " for name in names if name.startswith(text)]
        if before[0] == "cd":
            before[0] = "ls"
        answer = candidates.answer(before, text, self._options.commands, self._parser)
        if answer.kind in ("files", "commands"):
            return _local_files(text)
        return [word if word.endswith(("/", "=", ":")) else f"{word} " for word, _ in answer.words]

    def _parser(self, before: Any) -> Any:
        return (self._options.parser(before[0]), 1) if before[0] in self._options.commands else None


def _local_files(text: str) -> list[str]:
    import glob

    found = sorted(glob.glob(f"{glob.escape(text)}*"))
    return [f"{path}/" if os.path.isdir(path) else f"{path} " for path in found]


def _history_file() -> str:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "gofer", "history")

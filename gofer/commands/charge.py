"""What `gofer serve` has to see to besides serving: its socket file, and the command behind `--`."""

from __future__ import annotations

import os
from _signal import SIGCHLD, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2

from gofer import Failure, failure
from gofer.jail.supervisor import Charge
from gofer.log import Log
from gofer.server.listening import Listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Callable

    from gofer.commands.notify import Notifier
    from gofer.watch.start import Onlooker

SUMMARY, SWITCH = b"1", b"2"  # orders to the watcher (watch/watcher.py)
_PATIENCE = 2.0  # seconds for a command to end, when there is no server for it


class ServeCharge(Charge):
    """The socket file and the command behind `--`: the supervisor's business, or without a jail the server's own."""

    def __init__(
        self, log: Log, listening: Listening | None, words: list[str], in_command: Callable[[], None],
        onlooker: Onlooker | None = None, notifier: Notifier | None = None,
    ) -> None:  # fmt: skip
        self._log = log
        self._onlooker = onlooker
        if onlooker is not None:
            self.signals = (SIGUSR1, SIGUSR2)
        self._listening = listening
        self._command: Command | None = None
        if words:
            assert listening is not None
            self._command = Command(words, listening.path, in_command)
            self.processes = (self._command.pid,)
        self.keep = (*log.fds, *(listening.keep if listening else ()), *(onlooker.keep if onlooker else ()))
        self._notifier = notifier
        if notifier is not None:
            self.keep = (*self.keep, *notifier.fds)
            self.watched = notifier.watched

    def say(self, line: str) -> None:
        self._log.fatal(line)

    def heard(self) -> bool:
        return self._notifier is not None and self._notifier.heard()

    def in_server(self) -> None:
        if self._notifier is not None:
            self._notifier.in_server()
        if self._listening is not None:
            self._listening.forget()
        if self._command is not None:
            self._command.forget()

    def on_signal(self, number: int) -> bool:
        if number in self.signals and self._onlooker is not None:
            self._onlooker.order(SUMMARY if number == SIGUSR1 else SWITCH)
            return True
        return self._command is not None and self._command.on_signal(number)

    def finished(self) -> bool:
        return self._command is not None and self._command.ended()

    def abandon(self) -> None:
        if self._command is not None:
            self._command.end()
        if self._onlooker is not None:
            self._onlooker.finish(in_order=False)
        if self._listening is not None:
            self._listening.remove()

    def tidy(self, status: int) -> int:
        if self._onlooker is not None:
            self._onlooker.finish(in_order=not status)
        if self._listening is not None:
            self._listening.remove()
        return status if self._command is None or status else self._command.status()


class Command:
    """The command behind `--`: it runs as long as it likes, and the server as long as it does."""

    def __init__(self, words: list[str], socket_path: str, in_command: Callable[[], None]) -> None:
        """in_command(): called in its process, before it is what it is to be."""
        import subprocess

        try:
            self._child: subprocess.Popen[bytes] = subprocess.Popen(
                words,
                env={**os.environ, "GOFER_SOCKET": socket_path},
                preexec_fn=in_command,
            )
        except (
            OSError,
            subprocess.SubprocessError,
        ) as e:  # the latter: in_command failed, and subprocess does not say of what
            what = f"cannot run {words[0] or repr('')}"
            if isinstance(e, OSError):
                raise failure(what, e, "give a command that exists after --") from None
            raise Failure(f"{what}: its limits cannot be set; try again") from None

    @property
    def pid(self) -> int:
        return self._child.pid

    def forget(self) -> None:
        """It is another process's from now on."""
        self._child.returncode = 0  # else Popen.__del__ waits for it

    def ended(self) -> bool:
        return self._child.poll() is not None

    def end(self) -> None:
        """It must not outlive a server that never was."""
        if not self.ended():
            self._child.terminate()
            try:
                self._child.wait(_PATIENCE)
            except Exception:  # it takes its time
                self._child.kill()
                self._child.wait()

    def on_signal(self, number: int) -> bool:
        """Whether the signal is the command's business: a terminal sends it Ctrl-C and Ctrl-\\ itself, the rest is passed on."""
        if self.ended():
            return False
        if number not in (SIGINT, SIGQUIT, SIGCHLD):
            self._child.send_signal(number)
        return True

    def status(self) -> int:
        """The exit status, 128 and the number for a signal, as a shell has it."""
        code = self._child.wait()
        return code if code >= 0 else 128 - code

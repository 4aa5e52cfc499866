"""How a server is to be confined, and what came of it: one line for each layer, in words for whoever has to decide whether
it is enough."""

from __future__ import annotations

IN_FORCE, MISSING = "in force", "missing"

# What is told of a process that its filter has killed.
REFUSED = "made a system call that its filter forbids"
REPORT = "please report it; --seccomp=log would let it pass, and the kernel's log name it"

# What is lost where a layer is missing: said of a server that a client has taken over, which is what the jail is for.
LOSSES = {
    "user namespace": "it acts with the host's ids",
    "root": "it can name every file its user can",
    "network": "it can reach abstract Unix sockets of the host",
    "ipc": "it shares System V IPC and message queues with the host",
    "uts": "it shares the host name",
    "pid": "it is in the host's pid namespace",
    "fd limit": "it may use up the fds of its user",
    "no core files": "a crash may write memory, file contents among it, to a core file",
    "no groups": "it keeps the rights of its supplementary groups",
    "capabilities": "it keeps rights it does not use",
    "no_new_privs": "a set-user-ID program could give it rights back",
    "not dumpable": "other processes of its user can trace it",
    "landlock": "only the root and the filter keep it from opening other files",
    "seccomp": "every system call is open to it",
}


class Policy:
    """How to confine. mode: "auto", "require", or "off": then there is no jail to enter; seccomp: one of seccomp.ACTIONS.

    others_connect: other users than this one and root may connect, so that their peer credentials must be told apart.
    """

    __slots__ = ("mode", "seccomp", "others_connect")

    def __init__(self, mode: str = "auto", seccomp: str = "kill", others_connect: bool = False) -> None:
        self.mode = mode
        self.seccomp = seccomp
        self.others_connect = others_connect


class Layer:
    """One layer: its name (a key of LOSSES), its state (IN_FORCE or MISSING), and what holds, or why nothing does."""

    __slots__ = ("name", "state", "detail")

    def __init__(self, name: str, state: str, detail: str) -> None:
        self.name = name
        self.state = state
        self.detail = detail


class Posture:
    """What the jail came to.

    in_user_namespace: one of the server's own, see above. overflow_is_root: peer credentials of 65534 can be nobody's but root's.
    warnings: what the host may meet with because of it.
    """

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.warnings: list[str] = []
        self.in_user_namespace = False
        self.overflow_is_root = False

    def holds(self, name: str, detail: str = "") -> None:
        self.layers.append(Layer(name, IN_FORCE, detail))

    def lacks(self, name: str, why: str) -> None:
        self.layers.append(Layer(name, MISSING, why))

    def missing(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.state == MISSING]

    def lines(self) -> list[str]:
        """One line of what is in force, one for each reason why something is missing, and the warnings."""
        if not self.layers:
            return ["jail: off"]
        held = [layer for layer in self.layers if layer.state == IN_FORCE]
        texts = [f"{layer.name} ({layer.detail})" if layer.detail else layer.name for layer in held]
        lines = ["jail: " + ", ".join(texts)]
        reasons: dict[str, list[str]] = {}
        for layer in self.missing():
            reasons.setdefault(layer.detail, []).append(layer.name)
        for why, names in reasons.items():
            losses = ", ".join(LOSSES[name] for name in names)
            lines.append(f"jail: missing: {', '.join(names)}: {why}. A server that a client took over: {losses}")
        return lines + self.warnings

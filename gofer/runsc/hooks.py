"""createContainer hooks (OCI config.md, POSIX-platform Hooks), which runsc of 2026-08 leaves to its gofer.

They run in our mount namespace before the root changes, with the container's state as JSON on standard input.
"""

from __future__ import annotations

from gofer import signals
from gofer.log import Log
from gofer.runsc.errors import Fault
from gofer.runsc.gojson import encode_string

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_OUTPUT = 4096  # of a failed hook's words, in our log


def run_hooks(hooks: list[Any], state: str, log: Log) -> None:
    """Run each in turn; Fault at the first that fails, takes longer than its timeout, or makes no sense."""
    for hook in hooks:
        path, args, env, timeout = _checked(hook)
        # Both handle devices that the sandbox has proxies for; runsc leaves them out as well.
        if path.endswith("/nvidia-container-runtime-hook"):
            continue
        if path.endswith("/nvidia-cdi-hook") and "disable-device-node-modification" in args:
            continue
        log.debug(f"Executing hook {path} {args}")
        _run(path, args, env, timeout, state)


def container_state(version: str, container_id: str, bundle: str, annotations: dict[str, Any]) -> str:
    """The OCI state of a container being created; its process has no pid yet that could be told. version: the spec's."""
    members = [
        '"ociVersion":' + encode_string(version),
        '"id":' + encode_string(container_id),
        '"status":"creating"',
        '"pid":-1',
        '"bundle":' + encode_string(bundle),
    ]
    if annotations:
        pairs = (f"{encode_string(str(k))}:{encode_string(str(v))}" for k, v in sorted(annotations.items()))
        members.append('"annotations":{' + ",".join(pairs) + "}")
    return "{" + ",".join(members) + "}"


def _checked(hook: Any) -> tuple[str, list[str], dict[str, str], float | None]:
    try:
        path, args, timeout = hook["path"], list(hook.get("args") or ()), hook.get("timeout")
        env = dict(pair.partition("=")[::2] for pair in hook.get("env") or ())
        ok = isinstance(path, str) and path.startswith("/") and all(isinstance(word, str) for word in args)
        if ok and (timeout is None or type(timeout) is int):
            return path, args, env, timeout
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise Fault(f"spec: hooks.createContainer: no hook with an absolute path: {str(hook)[:200]}")


def _run(path: str, args: list[str], env: dict[str, str], timeout: float | None, state: str) -> None:
    import subprocess  # most containers have no hooks

    try:
        done = subprocess.run(
            args or [path],
            executable=path,
            env=env,
            input=state.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            preexec_fn=signals.hand_on,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Fault(f"hook {path}: not done after {timeout} seconds") from None
    except OSError as error:
        raise Fault(f"hook {path}: {error.strerror}") from None
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace")[:MAX_OUTPUT].strip()
        raise Fault(f"hook {path}: exit status {done.returncode}: {said}")

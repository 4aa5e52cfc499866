"""Which modules of the program are read together: what each way to start it needs, and in which order.

Found in the sources: a module needs what its import statements name that stand outside of functions, and what that needs. In a
part each stands behind those that it needs, as Python would import them; so all can be run one after the other, without a
search for each.
"""

import ast
from pathlib import Path

# What is imported at some point by whoever starts a container, or a server, or is started by runsc as its gofer.
LAUNCH = ("gofer.runsc.redirect", "gofer.runsc.guard", "gofer.runsc.flags")
START = ("gofer.cli", "gofer.runsc.flags")
SERVE = ("gofer.jail.enter", "gofer.commands.serve")
STAND_IN = ("gofer.runsc.gofer",)
# What each command on a served tree needs, and what `get`, `put` and `cp` do beside.
CLIENT = ("gofer.commands.common", "gofer.client.ahead")
COPY = ("gofer.commands.copy",)
_USED = ("gofer.commands.", "gofer.client.", "gofer.copy.")
# module: the parts that are run, all that is in them, as soon as it is imported
AT_ONCE = {
    SERVE[-1]: ("core", "serve"), STAND_IN[-1]: ("core", "stand_in"), CLIENT[0]: ("client",), COPY[-1]: ("client", "copy"),
}  # fmt: skip


def parts(checkout: Path) -> "dict[str, list[str]]":
    """part -> modules. Of those that are in several, the last of these parts is where one is looked for that is needed alone.

    "launch" stands for itself. "client" has the few that it shares with a server, who is to read no other part for them.
    """
    files = modules(checkout)
    needs = {name: list(_imported(checkout / file, name, files)) for name, file in files.items()}
    start, serve, stand_in, client, copy = (_closure(roots, needs) for roots in (START, SERVE, STAND_IN, CLIENT, COPY))
    found = {
        "client": [name for name in client if name not in start],
        "copy": [name for name in copy if name not in start and name not in client],
        "start": start,
        "core": [name for name in serve if name in stand_in and name not in start],
        "serve": [name for name in serve if name not in stand_in and name not in start],
        "stand_in": [name for name in stand_in if name not in serve and name not in start],
    }
    taken = {name for names in found.values() for name in names}
    left = [name for name in files if name not in taken]
    found["commands"] = [name for name in left if name.startswith(_USED)]
    return {"launch": _closure(LAUNCH, needs), **found, "rest": [name for name in left if not name.startswith(_USED)]}


def modules(checkout: Path) -> "dict[str, str]":
    """Full name -> path below the checkout; of a package, that of its __init__.py. Without __main__.py, which nobody imports."""
    paths = sorted(path.relative_to(checkout) for path in checkout.glob("gofer/**/*.py") if path.name != "__main__.py")
    return {".".join(path.with_suffix("").parts).replace(".__init__", ""): path.as_posix() for path in paths}


def _closure(roots: "tuple[str, ...]", needs: "dict[str, list[str]]") -> "list[str]":
    found: dict[str, None] = {}
    begun = set()

    def add(name: str) -> None:
        if name not in begun:
            begun.add(name)
            for needed in needs[name]:
                add(needed)
            found[name] = None

    for root in roots:
        add(root)
    return list(found)


def _imported(path: Path, module: str, files: "dict[str, str]") -> "list[str]":
    """The modules of ours that it needs, in order; those above it are needed, too."""
    parts = module.split(".")
    found = [".".join(parts[:count]) for count in range(1, len(parts))]
    statements = list(ast.parse(path.read_bytes()).body)
    while statements:
        it = statements.pop(0)
        if isinstance(it, ast.ImportFrom) and it.module:
            found += [it.module, *(f"{it.module}.{alias.name}" for alias in it.names)]
        elif isinstance(it, ast.Import):
            found += [alias.name for alias in it.names]
        elif isinstance(it, ast.Try):
            statements[:0] = it.body
        elif isinstance(it, ast.If) and not (isinstance(it.test, ast.Name) and it.test.id == "TYPE_CHECKING"):
            statements[:0] = it.body + it.orelse
    return [name for name in found if name in files]

"""The jail: what the server gives up before it serves the first byte, layer by layer, and what came of each. Whoever is to
serve without one (mode "off") does not come here.

Theory of operation
-------------------
`enter` is called once, by `gofer serve`, when everything is imported, every socket is bound, the served tree is an
O_PATH fd, and no thread has been started. Whoever builds a root of his own (the stand-in for `runsc gofer`) calls `confine`,
the second half. From the outside in:

1.  Namespaces (namespaces.py): pid, network, IPC, UTS, mount. A process cannot move itself into a new pid namespace,
    only what it forks is in it. So the process that was started becomes the supervisor (supervisor.py), which serves nobody,
    and its child goes on as the server, as process 1 of its namespace. Here the server may become several workers
    (workers.py), which go through what follows each on its own.
2.  A new root that holds the served tree and nothing else.
3.  Limits, supplementary groups, capabilities, no_new_privs, not dumpable: what the kernel lets the process do.
4.  Landlock, on the tree; then seccomp. Last, because both would forbid what came before.

Each layer is tried on its own and leaves one `Layer` in the `Posture`. In mode "auto" what the kernel lacks is reported and
missed; in mode "require" it is an error, raised before anything is served.

The order of credentials: no_new_privs may come at any time, Landlock and seccomp need it; groups go while CAP_SETGID is
still there; "not dumpable" comes after every change of credentials, which resets it. A process that is not
dumpable may still look into its own /proc/self/fd: the kernel lets a process do so to itself, whoever owns the file.

Unprivileged users
------------------
One who is not root, and has no capability, gets namespaces only inside a user namespace, in which he may map no ids but
his own uid and gid. Three things change there: files of other owners read as 65534; a file can no longer be given to
one of his supplementary groups; and other users' peer credentials read as 65534 as well. So in mode "auto" the user
namespace is entered where that cannot matter (`_changes_results`), and else left out with a line that says why; Landlock
and seccomp, which change no result, confine the server then. "require" asks for all layers and takes the ids as they come.
"""

from __future__ import annotations

import os
import resource
import stat
from errno import EPERM

from gofer import procself
from gofer.cdata import c_int, c_ulong
from gofer.jail import caps, landlock, namespaces, seccomp, supervisor
from gofer.jail.posture import Policy, Posture
from gofer.jail.witness import Witness
from gofer.sys import libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Callable

    from gofer.server.comm import Options

    Roots = Sequence[tuple[int, Options]]  # the O_PATH fd of a served tree or file, and how it is served


def enter(
    root: int,
    options: Options,
    policy: Policy,
    charge: supervisor.Charge,
    split: Callable[[bool], None] = lambda _: None,
) -> Posture:
    """Confine the server; returns in the process that is to serve, which is another one than called (see above).

    root: the O_PATH fd of the served tree; it keeps its number and then means the tree in the new root. charge: what the
    supervisor is to see to. split(own_mounts): called in the server when it may become several processes, the last
    time that it can; own_mounts: all but the first must leave the mount namespace, because each changes the root of its own.
    OSError where mode "require" misses a layer.
    """
    posture = Posture()
    seccomp.prepare()
    try:
        name, why = namespaces.enter_directory_of(root), ""
    except OSError as error:  # a file whose directory cannot be reached any more
        name, why = b"", f"the tree's directory: {error.strerror}"
    propagation = namespaces.Propagation(root)
    way_back = namespaces.WayBack()
    trouble = _leave_namespaces(root, policy, posture)
    if not (trouble["mount"] or posture.in_user_namespace):
        if namespaces.leave_chroot():
            here = os.open(".", os.O_PATH | os.O_CLOEXEC)
            propagation = namespaces.Propagation(here)  # now that what is around the tree can be seen
            os.close(here)
        useless = why or namespaces.become_slave()
        if useless:
            way_back.go()
            trouble["mount"] = useless
    way_back.close()
    witness = Witness()
    supervisor.fork(charge, witness, lambda server: _confine_supervisor(posture, policy, (server, *charge.processes)))
    no_namespace = trouble.pop("mount")
    split(not no_namespace)
    _change_root(root, name, options, posture, no_namespace, propagation)
    for kind, why in trouble.items():
        posture.lacks(kind, why) if why else posture.holds(kind)
    _confine(posture, [(root, options)], policy, witness)
    witness.dismiss()
    return posture


def confine(roots: Roots, policy: Policy) -> Posture:
    """The layers that need no namespace, for a server that has a root of its own already, and no supervisor; see `enter`."""
    posture = Posture()
    seccomp.prepare()
    _confine(posture, roots, policy)
    return posture


def _leave_namespaces(root: int, policy: Policy, posture: Posture) -> dict[str, str]:
    """Returns by kind of namespace "" or why there is none."""
    flags = sum(namespaces.KINDS.values())
    if os.geteuid() == 0 or caps.effective_set():
        return namespaces.unshare(flags)
    why = _changes_results(root, policy)
    if why and policy.mode != "require":
        why = f"a user namespace would change what clients see: {why}"
    else:
        _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map is root's
        why = namespaces.user_namespace_trouble(root)
    if why:
        return dict.fromkeys(namespaces.KINDS, why)
    posture.in_user_namespace = True
    posture.holds("user namespace", f"uid {os.geteuid()}, gid {os.getegid()}")
    posture.overflow_is_root = not policy.others_connect
    return namespaces.unshare(flags | namespaces.USER)


def _changes_results(root: int, policy: Policy) -> str:
    """Why a user namespace with one uid and one gid would make a difference to clients; "" if it would not."""
    uid, gid = os.geteuid(), os.getegid()
    owner = os.fstat(root)
    if (owner.st_uid, owner.st_gid) != (uid, gid):
        return f"{owner.st_uid}:{owner.st_gid}, owner of the served tree, would read as 65534:65534"
    if set(os.getgroups()) - {gid}:
        return "files could not be given to your supplementary groups"
    if policy.others_connect:
        return "--allow-uid, --group and --mode let in users whom it could not tell apart"
    return ""


def _change_root(
    root: int, name: bytes, options: Options, posture: Posture, no_namespace: str, propagation: namespaces.Propagation
) -> None:
    """A new root in our own mount namespace; without one chroot, where we may. /proc/self/fd is pinned anew: it was
    the supervisor's until now."""
    devices = options.char_devices == "open"
    own = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not no_namespace:
        try:
            tree, proc, mountinfo, why = namespaces.new_root(root, name, options.read_only, devices)
        except OSError as error:
            no_namespace = error.strerror or str(error)
        else:
            os.dup2(tree, root, inheritable=False)
            os.close(tree)
            os.close(own)
            procself.pin_proc(proc, mountinfo)
            flags = "nosuid" + ("" if devices else ",nodev") + (",ro" if options.read_only else "")
            posture.holds("root", f"{f'no mount flags: {why}' if why else flags}; {propagation.describe()}")
            if propagation.stuck:
                posture.warnings.append(
                    f"{', '.join(propagation.stuck[:5])}: if the host unmounts what is mounted there, it stays in use until this "
                    "server ends, as the mount around it is private"
                )
    if no_namespace:
        if not name and _chroot(root):
            posture.holds("root", f"by chroot, which is less: there can be no mounts of its own: {no_namespace}")
        else:
            posture.lacks("root", no_namespace)
        procself.pin_proc(own, os.open("../mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own))
    procself.enter_proc()


def _chroot(root: int) -> bool:
    try:
        os.fchdir(root)
        os.chroot(".")
    except OSError:
        return False
    return True


def _confine(posture: Posture, roots: Roots, policy: Policy, witness: Witness | None = None) -> None:
    """From the limits on; see the head of this file for the order."""
    credentials = any(options.uds_open for _, options in roots)
    sockets = credentials or any(options.uds_create for _, options in roots)
    _limit(posture)
    _drop_groups(posture)
    _drop_rights(posture, _needed_capabilities(posture, [options for _, options in roots]))
    _landlock(posture, roots)
    splices = any(options.lanes is not None for _, options in roots)
    trouble = _filter(policy.seccomp, lambda refuse: seccomp.server_rules(refuse, sockets, credentials, splices), witness)
    posture.lacks("seccomp", trouble) if trouble else posture.holds("seccomp", policy.seccomp)
    if posture.missing() and policy.mode == "require":
        reasons = "; ".join(f"{layer.name} ({layer.detail})" for layer in posture.missing())
        raise OSError(EPERM, f"--jail=require refuses to serve without {reasons}")


def _limit(posture: Posture) -> None:
    """The fd limit that is set already becomes one that cannot be raised again."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    procself.set_limit(resource.RLIMIT_NOFILE, limit, limit)
    posture.holds("fd limit", str(limit))
    procself.set_limit(resource.RLIMIT_CORE, 0, 0)
    posture.holds("no core files")


def _drop_groups(posture: Posture) -> None:
    try:
        os.setgroups([])
    except OSError:  # not ours to drop; our own gid among them is no loss
        if set(os.getgroups()) - {os.getegid()}:
            posture.lacks("no groups", "only root can drop them: start it without, as `setpriv --clear-groups` does")
            return
    posture.holds("no groups")


def _needed_capabilities(posture: Posture, exports: Sequence[Options]) -> frozenset[int]:
    """In a user namespace of its own a process has every capability, over what is its user's anyway: it needs none."""
    if posture.in_user_namespace:
        return frozenset()
    needed = caps.FILES
    if any(options.uds_open for options in exports):
        needed |= caps.IDENTITY
    if any(options.xattrs == "all" for options in exports):
        needed |= caps.XATTRS
    return needed


def _drop_rights(posture: Posture, keep: frozenset[int]) -> None:
    """Capabilities, and the two attributes that guard them. There is no kernel without these: a failure is an error."""
    posture.holds("capabilities", caps.describe(caps.limit(keep)))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    posture.holds("no_new_privs")
    _prctl(_PR_SET_DUMPABLE, 0)
    posture.holds("not dumpable")


def _landlock(posture: Posture, roots: Roots) -> None:
    version = landlock.abi()
    if version == 0:
        posture.lacks("landlock", "this kernel has none, or it is off (lsm= at boot)")
    elif version < landlock.LEAST_ABI:
        posture.lacks(
            "landlock", f"ABI {version} is too old: it forbids renames between directories; Linux 5.19 is not"
        )
    else:
        trees = []
        for fd, options in roots:
            allowed = landlock.rights(options.read_only, options.char_devices == "open")
            trees.append((fd, stat.S_ISDIR(os.fstat(fd).st_mode), allowed))
        try:
            landlock.restrict(trees, version)
            posture.holds("landlock", f"ABI {version}")
        except OSError as error:  # such as E2BIG, sixteen layers deep in others' sandboxes
            posture.lacks("landlock", os.strerror(error.errno or 0))


def _filter(action: str, rules: Callable[[int], seccomp.Rules], witness: Witness | None = None) -> str:
    """Install a filter; returns "" or why there is none. rules: made from the verdict on what is not allowed.

    witness: who is to see what is refused, and to kill for it, where the kernel can have that.
    """
    if action == "off":
        return "--seccomp=off"
    if not seccomp.available(action):
        return "this kernel, or this machine's architecture, has no such filter"
    if action == "kill" and witness is not None:
        try:
            listener = seccomp.install(seccomp.assemble(rules(seccomp.ASK), seccomp.ASK), listen=True)
        except OSError:
            pass  # see `install`: then the kernel kills, and nobody knows for what
        else:
            witness.take(listener)
            return ""
    refuse = seccomp.refusal(action)
    try:
        seccomp.install(seccomp.assemble(rules(refuse), refuse))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _confine_supervisor(posture: Posture, policy: Policy, processes: Sequence[int]) -> None:
    """The supervisor has nothing to do with clients; what it does not need goes all the same. Its root is the server's."""
    os.chdir("/")
    procself.set_limit(resource.RLIMIT_CORE, 0, 0)
    caps.limit(_needed_capabilities(posture, []) | {caps.KILL})  # a thread of the server's may have become anybody
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _filter(policy.seccomp, lambda refuse: seccomp.supervisor_rules(refuse, processes))


def confine_relay(action: str, child: int) -> None:
    """A process that carries bytes between fds it has, and waits for that child (commands/stdio.py)."""
    seccomp.prepare()
    os.chdir("/")
    procself.set_limit(resource.RLIMIT_CORE, 0, 0)
    caps.limit(frozenset({caps.KILL}) if caps.effective_set() else frozenset())  # signals are handed on to the server
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _filter(action, lambda refuse: seccomp.relay_rules(refuse, child))


def confine_mount(action: str, passes: bool, ioctls: Iterable[int]) -> None:
    """The process that answers the kernel for a mounted tree (fuse/), once that is mounted.

    passes: the kernel opens donated files in its place (FUSE passthrough), with its rights: those are what a Landlock without any
    tree would take, and CAP_SYS_ADMIN is what that asks for. The filter leaves neither anything else to be used for.
    """
    seccomp.prepare()
    os.chdir("/")
    procself.set_limit(resource.RLIMIT_CORE, 0, 0)
    caps.limit(frozenset({caps.SYS_ADMIN, caps.DAC_OVERRIDE, caps.DAC_READ_SEARCH} if passes else ()))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    version = landlock.abi()
    if version >= landlock.LEAST_ABI and not passes:
        try:
            landlock.restrict((), version)
        except OSError:  # as in `_landlock`: the filter is there
            pass
    _filter(action, lambda refuse: seccomp.mount_rules(refuse, ioctls))


_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def _prctl(option: int, value: int) -> None:
    if libc["prctl"](c_int(option), c_ulong(value), c_ulong(0), c_ulong(0), c_ulong(0)) != 0:
        raise_errno()

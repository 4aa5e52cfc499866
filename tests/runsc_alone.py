#!/usr/bin/env python3
"""runsc_alone.py 2022|2024 DIRECTORY CONNECTIONS: `runsc gofer` by itself, as runsc would start it, on fds 3, 4, ...

What `gofer conform` starts to judge gVisor's own servers. Short of namespaces: it serves the directory itself. Bind mounts on "/"
serve the same tree to each further connection.
"""

import json
import os
import sys

import newer

PROGRAMS = {"2022": "runsc", "2024": str(newer.RUNSC)}


def main(year: str, directory: str, connections: int) -> None:
    mount = {"destination": "/", "type": "bind", "source": directory, "options": ["rw"]}
    process = {"args": ["true"], "cwd": "/"}
    spec = {"ociVersion": "1.0.0", "process": process, "root": {"path": directory}, "mounts": [mount] * (connections - 1)}
    config, null = os.memfd_create("config.json", 0), os.open(os.devnull, os.O_WRONLY)
    os.write(config, json.dumps(spec).encode())
    os.lseek(config, 0, os.SEEK_SET)
    os.set_inheritable(null, True)
    argv = [PROGRAMS[year], "--TESTONLY-unsafe-nonroot", "--network=none", "--host-uds=all", "--host-fifo=open"]
    argv += [f"--alsologtostderr={os.environ.get('RUNSC_LOG', 'false')}"]
    if year == "2024":
        argv += ["--directfs=false"]
    argv += ["gofer", f"--bundle={directory}", f"--spec-fd={config}", f"--mounts-fd={null}"]
    argv += ["--setup-root=false", "--apply-caps=false", *(f"--io-fds={3 + number}" for number in range(connections))]
    if year == "2024":
        argv += [f"--gofer-mount-confs={','.join(['lisafs:none'] * connections)}"]
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""Start of a worker of Ray: the worker is a fork of the server of warm processes, and this program waits for it.

Ray itself is imported in the fork: a fork of a process that has imported it cannot connect to a cluster.
"""

import argparse
import os
import sys

from warm_process import WarmScript, use_server

SERVER = "MERVN_WARM_SERVER"
"""Variable with the address of the server."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--serialized-runtime-env-context", "--language"):  # for Ray's own program in this place
        parser.add_argument(option)
    arguments = parser.parse_known_args()[1]
    while not arguments[0].endswith(".py"):  # options of Python
        arguments.pop(0)
    use_server(os.environ[SERVER])
    sys.exit(WarmScript((sys.executable, "-u", *arguments), os.environ).wait())

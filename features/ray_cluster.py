"""Connection to a Ray cluster: a running one, or a new one on this machine."""

from __future__ import annotations

import os
import socket
from typing import Any

from features.errors import InputError

PATIENCE_S = 10.0
"""Seconds that a running cluster has to answer."""


def connect(address: str | None, least_cpus: int) -> bool:
    """Connect this process to a cluster, unless it is connected; return whether it did.

    address: auto or HOST:PORT of a running cluster; None starts one on this machine, which has at
    least `least_cpus` CPUs in the eyes of Ray. InputError if it cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        return False
    refuse_unreachable(address)
    local: dict[str, Any] = {} if address else {"num_cpus": max(least_cpus, os.cpu_count() or 1)}
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error", **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray-address must be a Ray cluster, found {address}: {error}") from error
    return True


def refuse_unreachable(address: str | None) -> None:
    """Raise InputError if nothing answers at HOST:PORT. Ray itself would retry for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():  # "auto", or a new local cluster
        return
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address must be a running cluster, but {address} does not answer: {error}") from error


def import_ray() -> Any:
    """Return the module; InputError if it is not installed."""
    # without it Ray prints a deprecation notice
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError('--engine ray needs Ray: pip install "mervn[ray]"') from error
    return ray

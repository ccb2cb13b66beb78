"""`genai fleet up`: replicas of the local model on this machine, or on the Ray cluster that RAY_ADDRESS names.

python -m infra.ray.up [--least N] [--most N] [--cpus N] [--port N] [--downscale-delay SECONDS]
"""

import argparse
import os
import secrets
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from infra.ray.app import APPLICATION, DIRECTORY, DIRECTORY_PORT, NAMESPACE, ROOT, build

OBJECT_STORE_BYTES = 100_000_000
OWN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a busy machine takes longer than Ray's 30 seconds
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    # replicas are what the machine is for: Ray would run its workers at 15
    "RAY_worker_niceness": "0",
    # a replica's process does not outlive a worker of Ray that was killed
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="genai fleet up", description=__doc__)
    parser.add_argument("--least", type=int, default=1, help="fewest replicas")
    parser.add_argument("--most", type=int, default=3, help="most replicas")
    parser.add_argument("--cpus", type=float, default=1, help="cores of each")
    parser.add_argument("--port", type=int, default=DIRECTORY_PORT, help="port of the list of replicas")
    parser.add_argument("--downscale-delay", type=float, default=60, help="seconds before a replica too many ends")
    options = parser.parse_args()
    secret = os.environ.get("FLEET_SECRET") or secrets.token_urlsafe(32)
    for name, value in OWN.items():
        os.environ.setdefault(name, value)
    # Ray's workers import this module, wherever they run
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        ray.init(namespace=NAMESPACE, **local_arguments())
        # calls go to the replicas themselves: Ray's proxy in Python would be the slowest part
        serve.start(proxy_location=ProxyLocation.Disabled)
        numbers = {name: str(getattr(options, name)) for name in ("least", "most", "cpus", "port", "downscale_delay")}
        grace = {"SHUTDOWN_GRACE": os.environ.get("SHUTDOWN_GRACE", "20")}
        serve.run(build({**numbers, **grace, "FLEET_SECRET": secret}), name=APPLICATION, route_prefix=None)
        ending = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ending.set())
        if "FLEET_SECRET" not in os.environ:
            print(f"FLEET_SECRET={secret}")
        print(f"LOCAL_URL=list+http://127.0.0.1:{options.port}/replicas", flush=True)
        ending.wait()
    finally:
        _down()


def local_arguments(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of a Ray of this machine alone, ``more`` among them; none where RAY_ADDRESS names a cluster."""
    if "RAY_ADDRESS" in os.environ:
        return {}
    return {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, **(more or {})}


def _down() -> None:
    """End the replicas, each after what runs on it, then what Ray has started here."""
    if not ray.is_initialized():
        return
    # waits until they have drained; serve.shutdown by itself waits for 30 seconds at most
    serve.delete(APPLICATION)
    serve.shutdown()
    try:
        ray.kill(ray.get_actor(DIRECTORY, NAMESPACE))
    except ValueError:
        print("There was no list of replicas", file=sys.stderr)
    ray.shutdown()


if __name__ == "__main__":
    main()

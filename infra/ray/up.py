"""`genai fleet up`: replicas of the local model on this machine, or on the Ray cluster that RAY_ADDRESS names.

python -m infra.ray.up [--most N] [--cpus N] [--port N]
"""

import argparse
import os
import secrets
import signal

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from infra.ray.app import DIRECTORY_PORT, NAMESPACE, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--least", type=int, default=1, help="fewest replicas")
    parser.add_argument("--most", type=int, default=3, help="most replicas")
    parser.add_argument("--cpus", type=float, default=1, help="cores of each")
    parser.add_argument("--port", type=int, default=DIRECTORY_PORT, help="port of the list of replicas")
    options = parser.parse_args()
    secret = os.environ.get("FLEET_SECRET") or secrets.token_urlsafe(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(namespace=NAMESPACE, **({} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}))
    # calls go to the replicas themselves: Ray's proxy in Python would be the slowest part
    serve.start(proxy_location=ProxyLocation.Disabled)
    numbers = {name: str(getattr(options, name)) for name in ("least", "most", "cpus", "port")}
    serve.run(build({**numbers, "FLEET_SECRET": secret}), name="genai", route_prefix=None)
    if "FLEET_SECRET" not in os.environ:
        print(f"FLEET_SECRET={secret}")
    print(f"Gateways: LOCAL_URL or a provider's addresses: list+http://127.0.0.1:{options.port}/replicas")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()

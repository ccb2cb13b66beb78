"""A Ray Serve application whose replicas are processes of this service (SERVE_ROLE=model), each on a port of its own.

serve run infra.ray.app:app, with FLEET_SECRET and the local model's settings in the environment; or `genai fleet up`.

Ray places, restarts, scales and drains them. No call passes through Ray: gateways ask each process at its address, by
`addresses: ["list+http://HEAD:8642/replicas"]`. Needs requirements-fleet.txt; nothing else of this project imports Ray.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from infra.ray.directory import Directory
from infra.ray.policy import cores, wanted_replicas

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
APPLICATION, DIRECTORY, NAMESPACE = "genai", "genai-replicas", "genai"
# Ray's own name for the machine that gateways ask
HEAD = {"node:__internal_head__": 0.001}
DIRECTORY_PORT = 8642
BEAT_SECONDS = 1.0
STALLED_SECONDS = 10.0
SILENT_SECONDS = 15.0
START_SECONDS = 600.0
LEAVE_SECONDS = 5.0
# states of a model that waiting does not change
NEVER = ("failed", "not_configured")
# after SHUTDOWN_GRACE, for a process that has not ended by itself
KILL_SECONDS = 3.0


class ModelReplica:
    """One process of the service and what looks after it.

    ``settings`` are variables of its environment besides; ``module`` is what it runs, on ``cpus`` cores where that is
    a whole number of them.
    """

    def __init__(self, settings: dict[str, str], module: str, cpus: float) -> None:
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        self._address = f"http://{host}:{port}"
        self._secret = settings.get("FLEET_SECRET", "")
        self._grace = float(settings.get("SHUTDOWN_GRACE", "20"))
        self._directory = ray.get_actor(DIRECTORY, NAMESPACE)
        self._told: dict[str, Any] = {}
        self._heard_at = time.monotonic()
        self._listing = threading.Lock()
        self._closing = threading.Event()
        own = {"SERVE_ROLE": "model", "API_HOST": "0.0.0.0", "API_PORT": str(port), "API_WORKERS": "1", "LOCAL_URL": ""}  # noqa: S104 - gateways are on other machines
        command = [os.environ.get("GENAI_PYTHON", sys.executable), "-m", module]
        self._process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings, **own})  # noqa: S603 - our own command
        # the engine takes as many threads as it has cores
        rank = serve.get_replica_context().rank.local_rank
        os.sched_setaffinity(self._process.pid, cores(sorted(os.sched_getaffinity(0)), rank, cpus))
        try:
            self._await_model()
        except BaseException:
            self._process.kill()
            raise
        threading.Thread(target=self._keep_asking, daemon=True).start()

    async def address(self) -> str:
        return self._address

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the policy reads: calls that wait and run, and slots, as the process itself says."""
        told = self._told
        return {name: float(told.get(name) or 0) for name in ("waiting", "running", "slots")}

    def check_health(self) -> None:
        """Raise where the process has ended, says nothing, or its engine computes nothing although calls run."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the process has ended with status {self._process.returncode}")
        if time.monotonic() - self._heard_at > SILENT_SECONDS:
            raise RuntimeError("the process does not answer")
        if float(self._told.get("stalled") or 0) > STALLED_SECONDS:
            raise RuntimeError("the engine computes nothing although calls run")

    def __del__(self) -> None:
        """Drain, as Serve ends a replica: out of the list first, then SIGTERM, then the grace period."""
        # an object whose process has not started has nothing to end; Serve calls this, and then the interpreter does
        if "_process" not in self.__dict__ or self._closing.is_set():
            return
        with self._listing:
            self._closing.set()
        try:
            ray.get(self._directory.leave.remote(self._address), timeout=LEAVE_SECONDS)
        except ray.exceptions.RayError as error:
            # the process says that it drains, and the list forgets it by itself
            log.warning("The list of replicas cannot be told that %s leaves: %s", self._address, type(error).__name__)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self._grace + KILL_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("%s has not ended in SHUTDOWN_GRACE and is killed", self._address)
                self._process.kill()

    def _await_model(self) -> None:
        """Wait until the model is loaded. Raises RuntimeError where it cannot be: Serve shows that and tries again."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"the process has ended with status {self._process.returncode}")
            if self._ask() and self._told.get("status") == "ready":
                return
            if self._told.get("status") in NEVER:
                raise RuntimeError(f"there is no model: {self._told.get('reason')}")
            time.sleep(0.2)
        raise RuntimeError(f"the model was not ready after {START_SECONDS:.0f} s")

    def _keep_asking(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            if self._ask():
                # what has left the list stays out of it
                with self._listing:
                    if not self._closing.is_set():
                        self._directory.beat.remote(self._address)

    def _ask(self) -> bool:
        request = urllib.request.Request(f"{self._address}/v1/capacity")  # noqa: S310 - our own process
        request.add_header("Authorization", f"Bearer {self._secret}")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own process
                told = json.load(answer)
        except (OSError, ValueError):
            return False
        chats = [model for model in told["models"] if model["kind"] == "chat"]
        self._told, self._heard_at = (chats[0] if chats else {}), time.monotonic()
        return True


def build(arguments: dict[str, str]) -> serve.Application:
    """The application. Of ``arguments``, those in lower case bound it, and the others are settings of the replicas."""
    cpus = float(arguments.get("cpus", "1"))
    least, most = int(arguments.get("least", "1")), int(arguments.get("most", "3"))
    settings = {name: value for name, value in arguments.items() if name.isupper()}
    settings.setdefault("FLEET_SECRET", os.environ.get("FLEET_SECRET", ""))
    named = {"name": DIRECTORY, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    placed = {"num_cpus": 0, "resources": HEAD, "max_restarts": -1}
    directory = ray.remote(Directory).options(**placed, **named).remote(int(arguments.get("port", DIRECTORY_PORT)))
    # a port that is taken is an error here, not later in each replica
    ray.get(directory.addresses.remote())
    deployment = serve.deployment(
        ModelReplica,
        name="model",
        ray_actor_options={"num_cpus": cpus},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=float(settings.get("SHUTDOWN_GRACE", "20")) + LEAVE_SECONDS + 2 * KILL_SECONDS,
        autoscaling_config=AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            metrics_interval_s=2,
            look_back_period_s=10,
            upscale_delay_s=5,
            downscale_delay_s=float(arguments.get("downscale_delay", "60")),
            policy=AutoscalingPolicy(policy_function=wanted_replicas),
        ),
    )
    return deployment.bind(settings, arguments.get("module", "apps.api.src.main"), cpus)


app = build

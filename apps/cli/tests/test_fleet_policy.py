"""How many replicas Ray is to keep and where gateways find them; and that nothing else needs Ray."""

import importlib.util
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from apps.cli.remote import CommandFailure
from apps.gateway.replicas.replica_set import Discovery
from apps.tests.support.ports import free_port
from infra.ray.directory import FORGOTTEN_SECONDS, Directory
from infra.ray.policy import cores, wanted, wanted_replicas

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("waiting", "running", "replicas"), [(0, 0, 1), (0, 3, 1), (1, 3, 2), (0, 4, 2), (4, 8, 4), (500, 8, 5)]
)
def test_there_are_as_many_as_leave_a_fifth_of_their_slots_free(waiting: float, running: float, replicas: int) -> None:
    assert wanted(2, 1, 5, waiting, running, 4) == replicas


def test_without_a_word_of_the_replicas_nothing_changes() -> None:
    assert wanted(3, 1, 5, 0, 0, 0) == 3 and wanted(9, 1, 5, 0, 0, 0) == 5


def test_the_policy_adds_up_what_each_replica_has_recorded() -> None:
    metrics = {"waiting": {"a": 2.0, "b": 1.0}, "running": {"a": 4.0, "b": 4.0}, "slots": {"a": 4.0, "b": 4.0}}
    context = SimpleNamespace(
        aggregated_metrics=metrics,
        current_num_replicas=2,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
    )
    assert wanted_replicas(context) == (4, {})
    context.aggregated_metrics = None
    assert wanted_replicas(context)[0] == 2


@pytest.mark.parametrize(
    ("rank", "cpus", "own"),
    [(0, 1, {2}), (3, 1, {5}), (1, 2, {4, 5}), (2, 2, {2, 3}), (0, 0.5, {2, 3, 4, 5}), (0, 9, {2, 3, 4, 5})],
)
def test_replicas_of_a_machine_have_cores_of_their_own(rank: int, cpus: float, own: set[int]) -> None:
    assert cores([2, 3, 4, 5], rank, cpus) == own


async def test_gateways_find_who_has_been_heard_of_lately_and_has_not_left() -> None:
    port, now = free_port(), 100.0
    with closing(Directory(port, lambda: now)) as directory:
        discovery = Discovery([f"list+http://127.0.0.1:{port}/replicas"])
        assert await discovery.find() == []
        for address in ("http://b:2", "http://a:1", "http://c:3"):
            directory.beat(address)
        directory.leave("http://c:3")
        directory.leave("http://d:4")
        assert await discovery.find() == ["http://a:1", "http://b:2"]
        now += FORGOTTEN_SECONDS - 1
        directory.beat("http://b:2")
        now += 1
        assert await discovery.find() == ["http://b:2"]


def test_ray_is_imported_by_nothing_but_its_own_folder() -> None:
    assert "ray" not in sys.modules


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_the_command_says_what_to_install() -> None:
    from apps.cli.serve import up

    with pytest.raises(CommandFailure, match=r"requirements-fleet\.txt"):
        up(SimpleNamespace(args=[]))  # type: ignore[arg-type]


def test_the_manifest_names_the_application() -> None:
    service, listing = yaml.safe_load_all((ROOT / "infra/ray/rayservice.yaml").read_text())
    application = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert application["import_path"] == "infra.ray.app:app" and (ROOT / "infra/ray/app.py").is_file()
    assert listing["spec"]["ports"][0]["port"] == 8642

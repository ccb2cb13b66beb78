"""CPUs that this process may use: its affinity and the quota of its cgroup, not the cores of the host."""

import os
from pathlib import Path

import pytest

from apps.core.process import available_cpus, cgroup_quota


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def version_1(folder: str, percent: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{percent}000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({}, "0::/\n", None),
        ({"cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4.0),
        ({"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "300000 100000\n"}, "0::/a/b\n", 1.0),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", None),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "70000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, "", 0.7),
        ({"cpu/a/cpu.cfs_quota_us": "60000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:cpu:/a\n", 0.6),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/a\n",
            0.5,
        ),
        (
            {"cpuacct,cpu/a/cpu.cfs_quota_us": "40000", "cpuacct,cpu/a/cpu.cfs_period_us": "100000"},
            "4:cpuacct,cpu:/a\n",
            0.4,
        ),
        ({"memory/a/cpu.max": "100000 100000\n", "a/cpu.max": "100000 100000\n"}, "4:memory:/a\n", None),
        ({"cpu.max": "0 100000\n"}, "0::/\n", None),
        ({"cpu.max": "nonsense\n"}, "0::/\n", None),
        ({"cpu.max": "100000 0\n"}, "0::/\n", None),
    ],
)
def test_the_tightest_quota_on_the_way_to_the_root_counts(
    tmp_path: Path, files: dict[str, str], membership: str, quota: float | None
) -> None:
    root = tree(tmp_path / "cgroup", files)
    (tmp_path / "membership").write_text(membership)
    assert cgroup_quota(root, tmp_path / "membership") == quota


def test_a_quota_below_one_cpu_still_gives_a_thread(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cpu.max": "20000 100000\n"})
    assert available_cpus(root, tmp_path / "none") == 1


def test_a_quota_never_raises_the_number_of_cpus(tmp_path: Path) -> None:
    root = tree(tmp_path, {"cpu.max": "102400000 100000\n"})
    assert available_cpus(root, tmp_path / "none") == available_cpus(tmp_path / "none", tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity mask")
def test_the_affinity_mask_counts(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cpus(tmp_path, tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)

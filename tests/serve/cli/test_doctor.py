"""`erllama doctor`: what the facts of a machine mean, of this one and of others."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from helpers.filled_directory import fill
from helpers.threaded_server import served_here

import erllama_py as erllama
from erllama_py.serve.cli import doctor as command
from erllama_py.serve.cli import doctor_facts, main
from erllama_py.serve.cli.doctor import Report
from erllama_py.serve.cli.doctor_facts import Folder, Machine, Port, folder
from erllama_py.serve.cli.doctor_judged import FLAGS, Finding, findings, judge_folder, judge_port, worst

Capture = pytest.CaptureFixture[str]
GIB = 1 << 30
BUILD = erllama.BuildInfo(
    version="0.3.36", problem=None, tried=True, seconds=0.5, cpu_features=("avx", "avx2", "fma"), threads=8,
    threads_reason="8 usable CPUs",
)  # fmt: skip
ISOLATION = erllama.IsolationInfo(problem=None, seconds=0.2, memory="cgroup", cpus=8, nice=True)
DEVICE = erllama.DeviceInfo(name="CUDA0", description="NVIDIA H200", kind="gpu", free=130 * GIB, total=139 * GIB)
MACHINE = Machine(
    system="Linux 6.1 x86_64", python="3.12.1", packages=dict.fromkeys(doctor_facts.PACKAGES, "1.0"), cpu="Xeon",
    cpu_flags=frozenset({"avx", "avx2", "fma", "pni"}), cpus=8, load=0.5, build=BUILD, gpus=(), memory_total=64 * GIB,
    memory_free=32 * GIB, memory_limit=None,
    limits={"address space": None, "open files": 65_536, "locked memory": None}, folders=(),
    port=Port(host="127.0.0.1", port=8080, problem=None), isolation=ISOLATION,
)  # fmt: skip
FOLDER = Folder(
    use="cache", path="/var/kv", exists=True, file_system="ext4", free=100 * GIB, total=200 * GIB, free_files=10**6,
    quota=20 * GIB, kind="disk",
)  # fmt: skip
HOME = msgspec.structs.replace(FOLDER, use="home", kind=None, quota=None)


def build(**more: Any) -> dict[str, Any]:
    return {"build": msgspec.structs.replace(BUILD, **more)}


def isolation(**more: Any) -> dict[str, Any]:
    return {"isolation": msgspec.structs.replace(ISOLATION, **more)}


def of(machine: Machine, what: str) -> Finding:
    """The worst line about this."""
    order = {"fail": 0, "warn": 1, "ok": 2}
    return min((one for one in findings(machine) if one.what == what), key=lambda one: order[one.status])


def test_a_sound_machine_has_nothing_to_do() -> None:
    """Each line is ok."""
    found = findings(msgspec.structs.replace(MACHINE, folders=(HOME, FOLDER)))
    assert {one.status for one in found} == {"ok"}
    assert worst(found) == "ok"
    assert not any(one.do for one in found)


@pytest.mark.parametrize(
    ("change", "what", "status", "said", "do"),
    [
        ({"packages": {"msgspec": None}}, "packages", "fail", "not installed: msgspec", "install"),
        (
            {"packages": {**MACHINE.packages, "uvloop": None}},
            "packages",
            "warn",
            "not installed: uvloop",
            "extra `serve`",
        ),
        (build(version=None, problem="llama-cpp-python is not installed"), "llama.cpp", "fail", "not installed", ""),
        (build(problem="SIGILL ended llama.cpp. … CMAKE_ARGS"), "llama.cpp", "fail", "SIGILL", ""),
        (build(problem="it computes wrong numbers"), "llama.cpp", "fail", "wrong numbers", "build llama-cpp-python"),
        (build(problem="not tried: no interpreter", tried=False), "llama.cpp", "warn", "not tried", "build"),
        (build(cpu_features=("avx2", "avx512")), "CPU", "fail", "has no avx512", "portable build"),
        (
            {"cpu_flags": MACHINE.cpu_flags | {"avx512f", "avx512_vnni"}},
            "CPU",
            "warn",
            "does not use its avx512, avx512_vnni",
            "a quarter faster",
        ),
        ({"cpu_flags": frozenset()}, "CPU", "ok", "Xeon", ""),
        (build(threads=1, threads_reason="a quota of 1.5 CPUs (8 cores)"), "threads", "warn", "1 of 8", "quota"),
        ({"load": 16.0}, "load", "warn", "16.0 processes want 8 CPUs", "--threads"),
        (build(devices=(DEVICE,), offloads=True), "GPU", "ok", "CUDA0: NVIDIA H200, 130.0 GiB of 139.0 GiB", ""),
        ({"gpus": ("NVIDIA",)}, "GPU", "warn", "computes on CPUs alone", "-DGGML_CUDA=on"),
        ({"gpus": ("AMD",)}, "GPU", "warn", "computes on CPUs alone", "-DGGML_HIP=on"),
        ({"gpus": ("NVIDIA",), **build(offloads=True)}, "GPU", "warn", "finds no device", "CUDA_VISIBLE_DEVICES"),
        ({"memory_free": GIB // 2}, "memory", "warn", "512 MiB of 64.0 GiB free", "smaller model"),
        ({"memory_limit": 4 * GIB, "memory_free": 3 * GIB}, "memory", "ok", "3.0 GiB of the container's 4.0 GiB", ""),
        ({"memory_limit": GIB, "memory_free": GIB // 4}, "memory", "warn", "256 MiB of the container's", "smaller"),
        ({}, "processes", "ok", "ready in 0.2 s", ""),
        ({}, "their limits", "ok", "memory by a cgroup, its 8 CPUs, niceness", ""),
        (isolation(problem="it needs Linux"), "processes", "warn", "it needs Linux", "threads of the server"),
        (isolation(memory="private data", cpus=1), "their limits", "ok", "no cgroup can be made here, its one CPU", ""),
        (isolation(memory=None, nice=False), "their limits", "ok", "no memory, its 8 CPUs, no niceness", ""),
        ({"limits": {"address space": 8 * GIB}}, "ulimit -v", "warn", "8.0 GiB", "unlimited"),
        ({"limits": {"open files": 256}}, "ulimit -n", "warn", "256 open files", "ulimit -n 4096"),
        ({"limits": {"locked memory": 8 << 20}}, "ulimit -l", "ok", "use_mlock", ""),
        ({"config": "a.toml", "config_problem": "a.toml: models: none"}, "configuration", "fail", "none", "docs"),
        ({"config": "a.toml"}, "configuration", "ok", "can be served", ""),
    ],
)
def test_each_fact_of_another_machine_has_its_line(
    change: Mapping[str, Any], what: str, status: str, said: str, do: str
) -> None:
    """With what to do about it."""
    found = of(msgspec.structs.replace(MACHINE, **change), what)
    assert (found.status, said in found.said, do in found.do) == (status, True, True), found


@pytest.mark.parametrize(
    ("change", "status", "said", "do"),
    [
        ({}, "ok", "/var/kv: ext4, 100.0 GiB free", ""),
        ({"exists": False}, "ok", "is made when it is needed", ""),
        ({"problem": "Permission denied"}, "fail", "Permission denied", "right to write"),
        ({"problem": "Read-only file system"}, "fail", "Read-only", "name another"),
        ({"problem": "No space left on device", "full": True}, "fail", "No space", "free some room, or name another"),
        ({"refusal": "the directory /var/kv holds 'x'"}, "fail", "holds 'x'", "name a directory of its own"),
        ({"file_system": "tmpfs"}, "warn", "empty after a restart", "on a disk"),
        ({"file_system": "tmpfs", "kind": "ram_file"}, "ok", "tmpfs", ""),
        ({"file_system": "tmpfs", "kind": "ram_file", "total": GIB}, "warn", "quota is 20.0 GiB", "fits"),
        ({"file_system": "overlay"}, "warn", "part of a container", "mount a volume"),
        ({"file_system": "nfs4"}, "warn", "in the network", "local disk"),
        ({"file_system": "fuse.sshfs"}, "warn", "in the network", "local disk"),
        ({"file_system": ""}, "ok", "unknown file system", ""),
        ({"links": False}, "warn", "two names", "local file system"),
        ({"free": 1 << 20}, "warn", "almost full", "erllama cache gc"),
        ({"free_files": 10}, "warn", "only 10 more files", "free some"),
        ({"mode": 0o755}, "warn", "others may look into it (mode 0755)", "chmod 700"),
        ({"mode": 0o755, "exists": False}, "ok", "ext4", ""),
        ({"holder": 77}, "ok", "open by the process 77", ""),
    ],
)
def test_each_kind_of_directory_has_its_line(change: Mapping[str, Any], status: str, said: str, do: str) -> None:
    """Of a tier; a home has no quota, and its mode is its owner's business."""
    [found] = judge_folder(msgspec.structs.replace(FOLDER, **change))
    assert (found.status, found.what) == (status, "tier cache")
    assert said in found.said
    assert do in found.do
    [home] = judge_folder(msgspec.structs.replace(HOME, mode=0o755))
    assert (home.status, home.what) == ("ok", "home")


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({}, "ok", "is free"),
        ({"problem": "Address already in use", "in_use": True}, "warn", "taken by another program"),
        ({"problem": "Address already in use", "in_use": True, "ours": True}, "ok", "a server of erllama answers"),
        ({"problem": "Permission denied"}, "fail", "cannot listen"),
    ],
)
def test_a_port_is_free_or_has_somebody(change: Mapping[str, Any], status: str, said: str) -> None:
    """A server that is ours is none that is in the way."""
    found = judge_port(msgspec.structs.replace(MACHINE.port, **change))
    assert (found.status, said in found.said) == (status, True)


def test_flags_of_the_build_are_known() -> None:
    """The names that llama.cpp gives to what this build is compiled for are among those that are compared."""
    others = {"llamafile", "repack", "openmp"}
    built = erllama.check_build()
    assert (built.problem, built.tried) == (None, True)
    assert set(built.cpu_features) - others <= set(FLAGS)
    assert built.threads >= 1
    assert built.threads_reason


def test_a_directory_is_tried(tmp_path: Path) -> None:
    """And left as it was; one that is not there is not made."""
    tier = erllama.DiskTier(str(tmp_path / "kv"), 1 << 30)
    before = list(tmp_path.iterdir())
    found = folder("cache", tmp_path / "kv", tier=tier)
    assert (found.exists, found.problem, found.links, found.quota) == (False, None, True, 1 << 30)
    assert found.total >= found.free > 0
    assert found.file_system
    assert list(tmp_path.iterdir()) == before
    fill(tmp_path / "kv")
    with erllama.CacheDirectory(tmp_path / "kv"):
        held = folder("cache", tmp_path / "kv", tier=tier)
    assert (held.exists, held.holder, held.mode) == (True, os.getpid(), 0o700)
    (tmp_path / "file").write_text("")
    assert folder("cache", tmp_path / "file").problem == "Not a directory"


def test_a_directory_that_no_tier_would_take_is_told(tmp_path: Path) -> None:
    """One that holds something else, or that programs share; as a home they are fine, and nothing is made there."""
    tier = erllama.DiskTier(str(tmp_path), 1 << 30)
    assert folder("cache", tmp_path, tier=tier).refusal is None
    (tmp_path / "mine.txt").write_text("x")
    found = folder("cache", tmp_path, tier=tier)
    assert "holds 'mine.txt' and no 'erllama-tier.txt'" in str(found.refusal)
    assert folder("home", tmp_path).refusal is None
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert "other programs share" in str(folder("cache", shared, tier=tier).refusal)


def test_a_file_system_that_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What helps there is room, not a right."""

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    found = folder("cache", tmp_path)
    assert (found.problem, found.full) == ("No space left on device", True)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_tells_less_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without mounts, without memory."""

    def hidden(*given: object, **named: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x")

    monkeypatch.setattr(psutil, "disk_partitions", hidden)
    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    assert doctor_facts.file_system(tmp_path) == ""
    assert doctor_facts.memory() == (0, 0)
    found = of(msgspec.structs.replace(MACHINE, memory_total=0, memory_free=0), "memory")
    assert (found.status, found.said) == ("warn", "the system does not say how much there is")


def test_what_the_kernel_says_is_read(tmp_path: Path) -> None:
    """Of an ARM machine, a machine with GPUs; nothing of one that says nothing."""
    assert doctor_facts.cpu(tmp_path)[1] == frozenset()
    assert doctor_facts.gpus(tmp_path) == ()
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Neoverse\nFeatures\t: fp asimd sve\n\nprocessor\t: 1\n",
        "dev/kfd": "", "dev/nvidiactl": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert doctor_facts.cpu(tmp_path) == ("Neoverse", frozenset({"fp", "asimd", "sve"}))
    assert doctor_facts.gpus(tmp_path) == ("NVIDIA", "AMD")
    assert doctor_facts.packages(["no-such-package"]) == {"no-such-package": None}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, and a build that was tried."""
    monkeypatch.setattr(erllama, "check_build", lambda: BUILD)
    monkeypatch.setattr(erllama, "check_isolation", lambda: ISOLATION)
    monkeypatch.setenv("ERLLAMA_HOME", str(tmp_path / "home"))
    return tmp_path


def test_it_is_lines_with_what_to_do(quick: Path, capsys: Capture) -> None:
    """Of this machine; and as JSON with the facts."""
    code = main(["doctor", "--port", "0", "--cache", str(quick / "kv")])
    printed = capsys.readouterr().out
    assert code == ("fail" in {line[:4] for line in printed.splitlines()})
    assert f"{quick / 'kv'} (is made when it is needed)" in printed
    assert main(["doctor", "--port", "0", "--cache", "none", "--json"]) == code
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    assert report.machine.build == BUILD
    assert [one.use for one in report.machine.folders] == ["home"]
    assert not (quick / "kv").exists()


def test_what_fails_ends_it_with_1(quick: Path, capsys: Capture) -> None:
    """A configuration that cannot be served, and a host that is not here."""
    file = quick / "erllama.toml"
    file.write_text("[server]\nhots = 1\n")
    assert main(["doctor", "--config", str(file), "--port", "0"]) == 1
    assert "fail  configuration" in capsys.readouterr().out
    assert main(["doctor", "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().out


def test_the_tiers_of_a_configuration_are_looked_at(quick: Path, capsys: Capture) -> None:
    """And its port."""
    file = quick / "erllama.toml"
    file.write_text(f'[server]\nport = 0\n[tiers.mine]\nkind = "disk"\nroot = "{quick / "kv"}"\n')
    main(["doctor", "--config", str(file)])
    printed = capsys.readouterr().out
    assert "tier mine" in printed
    assert "can be served" in printed


def test_it_sees_what_a_server_would_take(quick: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, the files of models, and who may ask: what `erllama serve` refuses fails here."""
    file = quick / "erllama.toml"
    file.write_text(f'[[models]]\nname = "a"\npath = "{quick / "gone.gguf"}"\n[server]\nport = 0\n')
    assert main(["doctor", "--config", str(file)]) == 1
    assert re.search("fail  configuration .*gone.gguf", capsys.readouterr().out)
    assert main(["doctor", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert re.search("fail  configuration .*give keys", capsys.readouterr().out)
    monkeypatch.setenv("ERLLAMA_HOST", "192.0.2.1")
    monkeypatch.setenv("ERLLAMA_PORT", "1234")
    assert main(["doctor"]) == 1
    assert "cannot listen on 192.0.2.1 port 1234" in capsys.readouterr().out
    monkeypatch.setenv("ERLLAMA_PORT", "lots")
    assert main(["doctor", "--host", "127.0.0.1", "--port", "0"]) == 1
    assert re.search("fail  configuration .*ERLLAMA_PORT", capsys.readouterr().out)


@pytest.mark.parametrize("number", ["-1", "65536", "99999"])
def test_a_port_that_cannot_be_is_a_wrong_command_line(number: str, quick: Path, capsys: Capture) -> None:
    """As for `erllama serve`; the system would take the rest of a division."""
    assert main(["doctor", "--port", number]) == 2
    assert "--port: expected int" in capsys.readouterr().err


def test_a_port_in_use_is_ours_or_not(quick: Path, tmp_path: Path) -> None:
    """By what answers there."""
    with served_here(tmp_path) as url:
        taken = command.examine(None, cache="none", host=None, number=int(url.rpartition(":")[2])).port
        assert (taken.in_use, taken.ours) == (True, True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.listen()
        found = doctor_facts.port("127.0.0.1", other.getsockname()[1])
        assert (found.in_use, found.ours) == (True, False)

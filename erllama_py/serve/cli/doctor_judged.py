"""What the facts of a machine mean for a server here: a line for each, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from erllama_py import IsolationInfo
from erllama_py.serve.cli.doctor_facts import Folder, Machine, Port
from erllama_py.serve.cli.screen import amount

Status = Literal["ok", "warn", "fail"]

# What a build is compiled for, by llama.cpp's name, and what the kernel calls it.
FLAGS = {
    "sse3": "pni", "ssse3": "ssse3", "avx": "avx", "avx2": "avx2", "f16c": "f16c", "fma": "fma", "bmi2": "bmi2",
    "avx512": "avx512f", "avx512_vbmi": "avx512vbmi", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "avx_vnni": "avx_vnni", "amx_int8": "amx_int8", "neon": "asimd", "dotprod": "asimddp", "matmul_int8": "i8mm",
    "sve": "sve",
}  # fmt: skip
# Those that make prompts of quantised weights a quarter faster.
WORTH = ("avx2", "avx512", "avx512_vnni", "avx_vnni", "dotprod", "matmul_int8")
NEEDED = ("erllama-py", "llama-cpp-python", "llguidance", "msgspec", "numpy", "psutil", "xxhash")
SERVING = ("starlette", "uvicorn", "uvloop", "httptools")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs"})
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
LEAST_FILES = 1024  # a connection has a descriptor, and so has every file that is read
LEAST_FREE = 256 << 20
LEAST_MEMORY = 1 << 30
LEAST_INODES = 10_000
SAY_SIZES = "sizes that nobody says are chosen by the machine's memory: give `context_opts` and quotas"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    status: Status
    what: str
    said: str
    do: str = ""
    """What to do about it; empty where nothing is to be done."""


def findings(machine: Machine) -> list[Finding]:
    """All lines, in the order in which a server needs them."""
    return [
        *_packages(machine), *_build(machine), *_threads(machine), *_gpus(machine), *_memory(machine),
        *_isolation(machine.isolation), *_limits(machine), *_config(machine),
        *(one for folder in machine.folders for one in judge_folder(folder)), judge_port(machine.port),
    ]  # fmt: skip


def worst(found: list[Finding]) -> Status:
    """The worst of them."""
    states = {one.status for one in found}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"


def _packages(machine: Machine) -> Iterator[Finding]:
    missing = [name for name in NEEDED if machine.packages.get(name) is None and name in machine.packages]
    if missing:
        yield _fail("packages", f"not installed: {', '.join(missing)}", "install the package again, by pip")
    absent = [name for name in SERVING if machine.packages.get(name) is None]
    if absent:
        yield _warn("packages", f"not installed: {', '.join(absent)}", "`erllama serve` needs the extra `serve`")
    there = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version is not None)
    yield _ok("system", f"{machine.system}, Python {machine.python}")
    yield _ok("versions", there or "none")


def _build(machine: Machine) -> Iterator[Finding]:
    build = machine.build
    if build.problem is not None:
        finding = _fail if build.tried or build.version is None else _warn
        do = "" if "CMAKE_ARGS" in build.problem else "build llama-cpp-python for this machine"
        yield finding("llama.cpp", build.problem, do)
    else:
        yield _ok("llama.cpp", f"{build.version} decodes here, tried in {build.seconds:.1f} s")
    if not machine.cpu_flags or not build.cpu_features:
        yield _ok("CPU", machine.cpu)
        return
    lacking = [name for name in build.cpu_features if (flag := FLAGS.get(name)) and flag not in machine.cpu_flags]
    if lacking:
        yield _fail(
            "CPU", f"{machine.cpu} has no {', '.join(lacking)}, for which the build is compiled",
            "install a portable build: PORTABLE=1 make run, or CMAKE_ARGS=-DGGML_NATIVE=OFF",
        )  # fmt: skip
        return
    unused = [name for name in WORTH if FLAGS[name] in machine.cpu_flags and name not in build.cpu_features]
    if unused:
        yield _warn(
            "CPU", f"{machine.cpu}: the build does not use its {', '.join(unused)}",
            "a build for this CPU reads some prompts a quarter faster: `make run` makes one in a checkout",
        )  # fmt: skip
    else:
        yield _ok("CPU", f"{machine.cpu}: the build uses what helps of it")


def _threads(machine: Machine) -> Iterator[Finding]:
    build = machine.build
    said = f"{build.threads} of {machine.cpus} CPUs: {build.threads_reason}"
    if "quota" in build.threads_reason:
        yield _warn("threads", said, "a larger quota of the container's CPUs makes it as much faster")
    else:
        yield _ok("threads", said)
    if machine.load is not None and build.threads and machine.load > 1.5 * machine.cpus:
        yield _warn(
            "load", f"{machine.load:.1f} processes want {machine.cpus} CPUs",
            "others that compute slow each token down: end them, or give the server fewer --threads",
        )  # fmt: skip


def _gpus(machine: Machine) -> Iterator[Finding]:
    build = machine.build
    if build.devices:
        for device in build.devices:
            free = f"{amount(device.free)} of {amount(device.total)} free"
            yield _ok("GPU", f"{device.name}: {device.description}, {free}")
    elif machine.gpus:
        makers = " and ".join(machine.gpus)
        if build.offloads:
            yield _warn("GPU", f"{makers}: llama.cpp finds no device", "look at its driver, and CUDA_VISIBLE_DEVICES")
        else:
            flag = "-DGGML_CUDA=on" if "NVIDIA" in machine.gpus else "-DGGML_HIP=on"
            yield _warn("GPU", f"{makers} is here, and the build computes on CPUs alone", f"CMAKE_ARGS={flag} make run")
    else:
        yield _ok("GPU", "none: the CPUs compute")


def _memory(machine: Machine) -> Iterator[Finding]:
    total, free = machine.memory_total, machine.memory_free
    if not total:
        yield _warn("memory", "the system does not say how much there is", SAY_SIZES)
        return
    limit = machine.memory_limit
    whole = amount(total) if limit is None or limit >= total else f"the container's {amount(limit)}"
    said = f"{amount(free)} of {whole} free"
    if free < LEAST_MEMORY:
        yield _warn("memory", said, "end what takes it, or take a smaller model: `erllama inspect` says what one takes")
    else:
        yield _ok("memory", said)


def _isolation(found: IsolationInfo) -> Iterator[Finding]:
    if found.problem is not None:
        do = 'models run on threads of the server, which a crash of native code ends: isolation = "thread"'
        yield _warn("processes", f"no model can have one of its own: {found.problem}", do)
        return
    yield _ok("processes", f"a model can have one of its own, ready in {found.seconds:.1f} s without its weights")
    bounds = {"cgroup": "memory by a cgroup", "private data": "memory by its private data: no cgroup can be made here"}
    cpus = f"its {found.cpus} CPUs" if found.cpus > 1 else "its one CPU"
    said = [bounds.get(found.memory or "", "no memory"), cpus, "niceness" if found.nice else "no niceness"]
    yield _ok("their limits", ", ".join(said))


def _limits(machine: Machine) -> Iterator[Finding]:
    space = machine.limits.get("address space")
    if space is not None:
        yield _warn("ulimit -v", f"{amount(space)} of addresses", "model files are mapped whole: ulimit -v unlimited")
    files = machine.limits.get("open files")
    if files is not None and files < LEAST_FILES:
        yield _warn("ulimit -n", f"{files:,} open files", f"each connection has one: ulimit -n {4 * LEAST_FILES}")
    else:
        yield _ok("ulimit -n", "no bound" if files is None else f"{files:,} open files")
    locked = machine.limits.get("locked memory")
    said = "no bound" if locked is None else f"{amount(locked)} may be locked"
    if locked is None or locked >= machine.memory_total // 2:
        yield _ok("ulimit -l", said)
    else:
        yield _ok("ulimit -l", f"{said}: `use_mlock` of a model needs more, and no other option does")


def _config(machine: Machine) -> Iterator[Finding]:
    if machine.config is None:
        if machine.config_problem is not None:  # of the environment and the command line
            yield _fail("configuration", machine.config_problem, "see docs/guides/configuration.md")
    elif machine.config_problem is None:
        yield _ok("configuration", f"{machine.config} can be served")
    else:
        yield _fail("configuration", machine.config_problem, "see docs/guides/configuration.md")


def judge_folder(folder: Folder) -> Iterator[Finding]:
    """What there is to say of a directory."""
    what = folder.use if folder.use == "home" else f"tier {folder.use}"
    where = folder.path if folder.exists else f"{folder.path} (is made when it is needed)"
    if folder.problem is not None:
        do = "free some room" if folder.full else "give its user the right to write there"
        yield _fail(what, f"{where}: {folder.problem}", f"{do}, or name another one")
        return
    if folder.refusal is not None:
        yield _fail(what, folder.refusal, "name a directory of its own")
        return
    worries = list(_worries(folder))
    facts = f"{where}: {folder.file_system or 'unknown file system'}, {amount(folder.free)} free"
    if folder.holder is not None:
        holder = f" by the process {folder.holder}" if folder.holder else ""
        facts += f"; open{holder}"
    if not worries:
        yield _ok(what, facts)
    for said, do in worries:
        yield _warn(what, f"{facts}; {said}", do)


def _worries(folder: Folder) -> Iterator[tuple[str, str]]:
    """What may go wrong with a directory that can be written, and what to do."""
    kept = folder.kind != "ram_file"
    if folder.file_system in IN_MEMORY and kept:
        yield "it lies in memory, and is empty after a restart of the machine", "name a directory on a disk"
    if folder.file_system in IN_MEMORY | {"hugetlbfs"} and folder.quota and folder.quota > folder.total:
        yield f"the quota is {amount(folder.quota)}", "give it a quota that fits"
    if folder.file_system == "overlay":
        yield "it is part of a container, and goes with it", "mount a volume there"
    if folder.file_system in NETWORK or folder.file_system.startswith("fuse.sshfs"):
        yield "it lies in the network: rows come as fast as that is, and locks may not hold", "name one on a local disk"
    if not folder.links:
        yield "a file cannot have two names there", "rows are published by renaming; a local file system is safer"
    if folder.kind == "disk" and folder.quota and folder.free < min(folder.quota, LEAST_FREE):
        yield "it is almost full", "free some room: `erllama cache gc` removes what is of no use"
    elif folder.free < LEAST_FREE:
        yield "it is almost full", "free some room"
    if folder.free_files is not None and folder.free_files < LEAST_INODES:
        yield f"only {folder.free_files:,} more files can be made", "free some, or make the file system with more"
    if folder.kind is not None and folder.exists and folder.mode & 0o077:
        yield f"others may look into it (mode {folder.mode:04o})", "rows are transcripts: chmod 700"


def judge_port(port: Port) -> Finding:
    """Whether a server can listen."""
    where = f"{port.host} port {port.port}"
    if port.problem is None:
        return _ok("port", f"{where} is free")
    if port.ours:
        return _ok("port", f"a server of erllama answers at {where}")
    if port.in_use:
        return _warn("port", f"{where} is taken by another program", "end that, or give --port another one")
    return _fail("port", f"cannot listen on {where}: {port.problem}", "give --host and --port others")


def _ok(what: str, said: str, do: str = "") -> Finding:
    return Finding(status="ok", what=what, said=said, do=do)


def _warn(what: str, said: str, do: str) -> Finding:
    return Finding(status="warn", what=what, said=said, do=do)


def _fail(what: str, said: str, do: str) -> Finding:
    return Finding(status="fail", what=what, said=said, do=do)

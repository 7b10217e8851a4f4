"""What `erllama doctor` looks at, gathered from this machine. What it means is decided in `doctor_judged`. Blocks."""

from __future__ import annotations

import errno
import os
import platform
import resource
import socket
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

import erllama_py as erllama
from erllama_py.memory import available_memory, memory_limit

PACKAGES = (
    "erllama-py", "llama-cpp-python", "llguidance", "msgspec", "numpy", "psutil", "xxhash", "starlette", "uvicorn",
    "uvloop", "httptools", "huggingface_hub", "opentelemetry-api",
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT)
GPU_NODES = {"/dev/nvidiactl": "NVIDIA", "/dev/kfd": "AMD"}
LIMITS = {"address space": "RLIMIT_AS", "open files": "RLIMIT_NOFILE", "locked memory": "RLIMIT_MEMLOCK"}


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that is used, or would be made. Sizes are in bytes."""

    use: str
    """What for: `"home"`, or the name of a tier."""
    path: str
    exists: bool
    problem: str | None = None
    """Why files cannot be written there, tried; `None` where they can."""
    full: bool = False
    """Whether that is for want of room."""
    refusal: str | None = None
    """Why no tier would take it, such as one that holds something else."""
    links: bool = True
    """Whether a file can have two names there, tried."""
    file_system: str = ""
    free: int = 0
    total: int = 0
    free_files: int | None = None
    """Files that can still be made; `None` where the file system has no such bound."""
    mode: int = 0o700
    quota: int | None = None
    """What a tier may take there."""
    kind: str | None = None
    """Of a tier: `"disk"`, `"ram_file"`."""
    holder: int | None = None
    """The process that has a tier's directory open."""


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server would listen."""

    host: str
    port: int
    problem: str | None
    """Why it cannot; `None` where it can."""
    in_use: bool = False
    ours: bool = False
    """Whether a server of erllama answers there."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Sizes are in bytes."""

    system: str
    python: str
    packages: dict[str, str | None]
    """Versions by name; `None` where one is not installed."""
    cpu: str
    cpu_flags: frozenset[str]
    cpus: int
    load: float | None
    """Processes that wanted a CPU in the last minute, on average."""
    build: erllama.BuildInfo
    gpus: tuple[str, ...]
    """GPUs that the system shows, by maker."""
    memory_total: int
    memory_free: int
    memory_limit: int | None
    """The least of this process's cgroups."""
    limits: dict[str, int | None]
    """What `ulimit` says, by name; `None`: no bound."""
    folders: tuple[Folder, ...]
    port: Port
    isolation: erllama.IsolationInfo
    """Whether the engine of a model can have a process of its own."""
    config: str | None = None
    """The configuration file that was given."""
    config_problem: str | None = None
    """Why what file, environment and command line come to cannot be served."""


def limits() -> dict[str, int | None]:
    """The bounds of this process that matter here."""
    found: dict[str, int | None] = {}
    for name, constant in LIMITS.items():
        soft, _ = resource.getrlimit(getattr(resource, constant))
        found[name] = None if soft == resource.RLIM_INFINITY else soft
    return found


def packages(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Versions of what is installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu(root: Path = Path("/")) -> tuple[str, frozenset[str]]:
    """Its name and what it can do, as the kernel says; `root` is where `proc` lies."""
    first = _text(root / "proc/cpuinfo").split("\n\n")[0]
    lines = dict(
        (name.strip(), value.strip()) for line in first.splitlines() for name, _, value in [line.partition(":")]
    )
    flags = lines.get("flags") or lines.get("Features") or ""
    return lines.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def gpus(root: Path = Path("/")) -> tuple[str, ...]:
    """Makers of the GPUs whose drivers show them here."""
    return tuple(maker for node, maker in GPU_NODES.items() if (root / node.lstrip("/")).exists())


def memory() -> tuple[int, int]:
    """The machine's, and what of it this process may still take, in bytes; 0 where the system does not say."""
    try:
        return psutil.virtual_memory().total, available_memory()
    except (OSError, KeyError, ValueError):  # a /proc that is not there, or has less
        return 0, 0


def folder(use: str, path: Path, *, tier: erllama.TierSpec | None = None) -> Folder:
    """Look at a directory, and try to write there: where it would be made, in the nearest one that is there."""
    path = path.expanduser().absolute()
    there = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    exists = there == path
    problem, full, links = _tried(there)
    free = total = 0
    free_files: int | None = None
    with suppress(OSError):
        facts = os.statvfs(there)
        free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
        free_files = facts.f_favail if facts.f_files else None
    mode = 0o700
    with suppress(OSError):
        mode = path.stat().st_mode & 0o777
    holder = _holder(path) if tier is not None and exists else None
    refusal = erllama.CacheDirectory.refusal(path) if tier is not None else None
    return Folder(
        use=use, path=str(path), exists=exists, problem=problem, full=full, refusal=refusal, links=links,
        file_system=file_system(there), free=free, total=total, free_files=free_files, mode=mode,
        quota=None if tier is None else tier.quota_bytes, kind=None if tier is None else tier.kind, holder=holder,
    )  # fmt: skip


def _holder(path: Path) -> int | None:
    """The process that has a tier's directory open; 0 where it says no number."""
    try:
        erllama.CacheDirectory(path).close()
    except erllama.TierLocked as error:
        return error.holder or 0
    except erllama.TierError:
        pass  # it is none yet
    return None


def file_system(path: Path) -> str:
    """The type of the file system that a directory is on; empty where that is not known."""
    try:
        mounted = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    except OSError:  # a /proc that shows less
        return ""
    resolved = path.resolve()
    return next((mounted[str(one)] for one in (resolved, *resolved.parents) if str(one) in mounted), "")


def _tried(path: Path) -> tuple[str | None, bool, bool]:
    """Why no file can be written in a directory, if so; whether that is for want of room; whether a file can have a
    second name there."""
    try:
        with tempfile.TemporaryDirectory(prefix=".erllama-doctor-", dir=path) as made:
            one = Path(made, "one")
            one.write_bytes(b"1" * 4096)
            try:
                os.link(one, Path(made, "two"))
            except OSError:
                return None, False, False
    except OSError as error:
        return error.strerror or str(error), error.errno in FULL, True
    return None, False, True


def port(host: str, number: int) -> Port:
    """Whether a server could listen there. It is tried."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(1)
    except (OSError, UnicodeError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        return Port(host=host, port=number, problem=said, in_use=in_use)
    return Port(host=host, port=number, problem=None)


def load() -> float | None:
    """The load of the last minute."""
    with suppress(OSError):
        return os.getloadavg()[0]
    return None


def system() -> str:
    """Its name and kernel."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def gathered(
    *, build: erllama.BuildInfo, isolation: erllama.IsolationInfo, folders: Iterable[Folder], listens: Port,
    config: str | None, config_problem: str | None,
) -> Machine:  # fmt: skip
    """Everything, with what was found out already."""
    (total, free), (name, flags) = memory(), cpu()
    return Machine(
        system=system(), python=platform.python_version(), packages=packages(), cpu=name, cpu_flags=flags,
        cpus=os.cpu_count() or 1, load=load(), build=build, gpus=gpus(), memory_total=total,
        memory_free=free, memory_limit=memory_limit(), limits=limits(), folders=tuple(folders),
        port=listens, isolation=isolation, config=config, config_problem=config_problem,
    )  # fmt: skip


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""

"""What the installed build of llama.cpp is, and whether it decodes on this machine: found out in children. Blocks.

Nothing is remembered, and nothing that was remembered counts: this is asked where something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import msgspec

from erllama_py.engine.children.ended import Ended
from erllama_py.engine.children.spawn import CannotSpawn, run_child
from erllama_py.engine.llama.native import cpu_features, package_folder
from erllama_py.engine.llama.probe_words import REPAIR, Bounds, build_problem
from erllama_py.results import BuildInfo, DeviceInfo

BOUNDS = Bounds()


class Told(msgspec.Struct, frozen=True):
    """What the child says of it."""

    system_info: str
    offloads: bool
    devices: tuple[DeviceInfo, ...] = ()


def checked_build(wanted: Callable[[], bool] = lambda: True) -> BuildInfo:
    """Try it, and ask what it is, as long as that is `wanted`."""
    folder = package_folder()
    version = _version()
    if folder is None or version is None:
        return BuildInfo(version=None, problem="llama-cpp-python is not installed", tried=False, seconds=0.0)
    given = {"folder": str(folder)}
    try:
        ended = run_child("probe_build", given, seconds=BOUNDS.seconds, wanted=wanted)
        told = run_child("describe_build", given, seconds=BOUNDS.seconds, wanted=wanted, devices=True)
    except CannotSpawn as problem:
        return BuildInfo(version=version, problem=f"not tried: {problem}", tried=False, seconds=0.0)
    return build_info(version, ended, told)


def build_info(version: str, ended: Ended, told: Ended) -> BuildInfo:
    """What the try and the description of a build come to. Pure."""
    problem = build_problem(ended)
    if problem is not None:
        problem += REPAIR.format(version=version)
    sound = ended.how == "ended"
    if problem is None and not sound:
        how = ended.signal or (f"Python failed: {ended.last_words}" if ended.how == "failed" else ended.how)
        problem = f"the process in which it was tried did not finish: {how}"
    known: dict[str, Any] = {}
    try:
        said = msgspec.json.decode(told.info, type=Told)
        features = tuple(cpu_features(said.system_info).split())
        known = {"cpu_features": features, "offloads": said.offloads, "devices": said.devices}
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return BuildInfo(version=version, problem=problem, tried=sound, seconds=ended.seconds, **known)


def _version() -> str | None:
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return None

"""Which build of llama.cpp set-up makes, as functions without side effects.

A build is for the instruction sets that the CPU reports, on Linux and x86-64; elsewhere it is portable, which means
ggml's own least. Each set is named to ggml: left to find out by itself (`GGML_NATIVE`), it takes AMX too, whose tiles
trap on some virtual machines although the CPU reports them. A build that goes beyond the portable one is tried before
it is used, and where that fails, the portable one is taken on this machine from then on.

Part of set-up: standard library only, and nothing that Python 3.7 cannot parse.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Collection
from typing import NamedTuple

from setup_plan import SetupProblem, explain

PORTABLE = "-DGGML_NATIVE=OFF"
BAD_TRIAL = 3  # what `setup_trial` exits with when it found something wrong; Python's own are 1 and 2
# Signals by which a library ends its own process. Others come from outside, and say nothing of the build.
_OWN_SIGNALS = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")


class InstructionSet(NamedTuple):
    """One that ggml can be built for."""

    name: str
    option: str  # of ggml's build
    reported: frozenset[str]  # by Linux in /proc/cpuinfo: all of what the compiler may then use
    compiler: tuple[str, ...]  # what ggml asks of the compiler


def _set(name: str, option: str, reported: str, compiler: str) -> InstructionSet:
    return InstructionSet(name, option, frozenset(reported.split()), tuple(compiler.split()))


# What ggml uses when it is told nothing but `GGML_NATIVE=OFF`: PCs since 2013.
BASE = (
    _set("sse42", "GGML_SSE42", "sse4_2", "-msse4.2"),
    _set("avx", "GGML_AVX", "sse4_2 avx", "-mavx"),
    _set("f16c", "GGML_F16C", "sse4_2 avx f16c", "-mf16c"),
    _set("fma", "GGML_FMA", "sse4_2 avx fma", "-mfma"),
    _set("avx2", "GGML_AVX2", "sse4_2 avx avx2", "-mavx2"),
    _set("bmi2", "GGML_BMI2", "bmi2", "-mbmi2"),
)
_ALL_BASE = " ".join(sorted(frozenset().union(*(one.reported for one in BASE))))
_AVX512 = _ALL_BASE + " avx512f avx512cd avx512vl avx512dq avx512bw"
_AVX512_OPTIONS = "-mavx512f -mavx512cd -mavx512vl -mavx512dq -mavx512bw"
# What ggml has beyond them, AMX left out: see above.
MORE = (
    _set("avx512", "GGML_AVX512", _AVX512, _AVX512_OPTIONS),
    _set("vbmi", "GGML_AVX512_VBMI", _AVX512 + " avx512vbmi", _AVX512_OPTIONS + " -mavx512vbmi"),
    _set("vnni", "GGML_AVX512_VNNI", _AVX512 + " avx512_vnni", _AVX512_OPTIONS + " -mavx512vnni"),
    _set("bf16", "GGML_AVX512_BF16", _AVX512 + " avx512_bf16", _AVX512_OPTIONS + " -mavx512bf16"),
    _set("avxvnni", "GGML_AVX_VNNI", _ALL_BASE + " avx_vnni", "-mavxvnni"),
)


class Asked(NamedTuple):
    """What the user has asked for."""

    cmake_args: str = ""  # CMAKE_ARGS
    portable: bool = False  # PORTABLE=1


class Build(NamedTuple):
    """One way to build llama.cpp."""

    user: str = ""  # the user's own options; with them nothing is added for this CPU
    lacking: tuple[InstructionSet, ...] = ()  # of the least, those that this CPU has not
    more: tuple[InstructionSet, ...] = ()  # beyond the least

    @property
    def args(self) -> str:
        """CMAKE_ARGS of the build: portable unless the user decided that, and what is said of single sets."""
        if self.user:
            return self.user if "GGML_NATIVE" in self.user else f"{self.user} {PORTABLE}"
        sets = [f"-D{one.option}=OFF" for one in self.lacking] + [f"-D{one.option}=ON" for one in self.more]
        return " ".join([PORTABLE, *sets])

    @property
    def name(self) -> str:
        """For people, and for the names of folders."""
        if self.user:
            return "custom"
        if self.more:
            return "-".join(one.name for one in self.more)
        return "-".join(["portable", *(f"no_{one.name}" for one in self.lacking)])


def asked(cmake_args: str, portable: str, stamp: dict[str, str]) -> Asked:
    """What is asked for by CMAKE_ARGS and PORTABLE ("" where they are not set), or else what was the last time.

    A build that was asked for once is kept until another is: builds take minutes, and nobody names it at each make.
    """
    if portable not in ("", "0", "1"):
        raise SetupProblem(f"PORTABLE is 1 or 0, not {portable}")
    cmake_args = cmake_args.strip()
    if not cmake_args and not portable:
        return Asked(stamp.get("cmake_args", ""), stamp.get("portable", "") == "1")
    return Asked(cmake_args, portable == "1")


def choose(asked: Asked, flags: Collection[str] | None) -> Build:
    """The build for a CPU that reports these flags; None for one of which nothing is known."""
    if asked.cmake_args:
        return Build(user=asked.cmake_args)
    if flags is None:
        return Build()
    lacking = tuple(one for one in BASE if not one.reported <= set(flags))
    more = () if asked.portable else tuple(one for one in MORE if one.reported <= set(flags))
    return Build(lacking=lacking, more=more)


def portable(build: Build) -> Build:
    """What is taken where `build` failed its trial."""
    return build._replace(more=())


def unknown_to_compiler(build: Build, refused: Collection[str]) -> Build:
    """The same without the sets for which the compiler lacks an option."""
    return build._replace(more=tuple(one for one in build.more if not set(one.compiler) & set(refused)))


def made(stamp: dict[str, str]) -> str | None:
    """The options of the build that set-up installed last; None where it never did."""
    if "build" in stamp or "cmake_args" not in stamp:
        return stamp.get("build")
    return Build(user=stamp["cmake_args"]).args  # by a set-up that made portable builds alone


def cpu_flags(cpuinfo: str) -> frozenset[str] | None:
    """What all CPUs of /proc/cpuinfo report; None where that has no such lines, as on ARM."""
    lines = [frozenset(line.split()) for line in re.findall(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)]
    return frozenset.intersection(*lines) if lines else None


def machine_key(cpuinfo: str, kernel: str) -> str:
    """Stands for the CPU model, what it reports, and the kernel: a trial holds for these."""
    models = sorted(set(re.findall(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)))
    return _short("\n".join([*models, *sorted(cpu_flags(cpuinfo) or ()), kernel]))


def wheel_folder(llama: str, build: Build, platform: str) -> str:
    """The folder of a built wheel: another version, other options or another kind of machine is another build."""
    return f"{llama}-{build.name}-{_short(chr(10).join((llama, build.args, platform)))}"


def trial_key(llama: str, build: Build, machine: str) -> str:
    """Under which a failed trial is remembered."""
    return f"{machine} {llama} {build.args}"


def trial_verdict(status: int, output: str, log: str = "") -> str | None:
    """What a trial that ended so found wrong, None for nothing. Raises `SetupProblem` where it tried nothing."""
    if status == 0:
        return None
    if status == BAD_TRIAL:
        return output.strip().rpartition("\n")[2] or "it does not say why"
    name = next((one.name for one in signal.Signals if one == -status), "")
    if name in _OWN_SIGNALS:
        return f"it ended by {name}"
    raise SetupProblem(f"the trial of llama.cpp could not be run: {name or explain(log)}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]

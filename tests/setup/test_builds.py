"""Which build of llama.cpp set-up takes: for what the CPU reports, never AMX, and portable where the trial failed."""

from __future__ import annotations

import signal

import pytest
import setup_builds as builds
from helpers.cpus import AVX512, SAPPHIRE_RAPIDS, X86_V3, ZEN_5
from hypothesis import given
from hypothesis import strategies as st
from setup_builds import BASE, MORE, Asked, Build
from setup_plan import SetupProblem

BEYOND = "-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON -DGGML_AVX_VNNI=ON"

# All flags that count, AMX, and some that say nothing of a set.
FLAGS = sorted({flag for one in (*BASE, *MORE) for flag in one.reported} | {"amx_tile", "amx_int8", "sse", "avx512er"})
flag_sets = st.sets(st.sampled_from(FLAGS)) | st.sets(st.sampled_from(FLAGS)).map(lambda lost: {*FLAGS} - lost)


@pytest.mark.parametrize(
    ("flags", "name", "options"),
    [
        pytest.param(ZEN_5, "avx512-vbmi-vnni-bf16-avxvnni", BEYOND, id="Zen 5"),
        pytest.param(SAPPHIRE_RAPIDS, "avx512-vbmi-vnni-bf16-avxvnni", BEYOND, id="AMX is left out"),
        pytest.param(X86_V3, "portable", "", id="Haswell"),
        pytest.param(AVX512, "avx512", "-DGGML_AVX512=ON", id="Skylake-X"),
        pytest.param(f"{X86_V3} avx_vnni", "avxvnni", "-DGGML_AVX_VNNI=ON", id="Alder Lake"),
        pytest.param(f"{X86_V3} avx512f avx512cd avx512er", "portable", "", id="Xeon Phi has not all of AVX-512"),
        pytest.param(AVX512.replace("bmi2", "") + " avx512_vnni", "portable-no_bmi2", "-DGGML_BMI2=OFF",
                     id="a machine that hides something"),
        pytest.param("sse4_2 avx", "portable-no_f16c-no_fma-no_avx2-no_bmi2",
                     "-DGGML_F16C=OFF -DGGML_FMA=OFF -DGGML_AVX2=OFF -DGGML_BMI2=OFF", id="Sandy Bridge"),
    ],
)  # fmt: skip
def test_a_build_is_for_what_the_cpu_reports(flags: str, name: str, options: str) -> None:
    """And for nothing else; ggml is never left to find out by itself."""
    build = builds.choose(Asked(), flags.split())
    assert (build.name, build.args) == (name, f"-DGGML_NATIVE=OFF {options}".strip())


@given(flag_sets)
def test_no_set_is_built_for_whose_flags_are_not_all_reported(flags: set[str]) -> None:
    """Whatever a CPU, or a hypervisor that hides parts of it, reports."""
    build = builds.choose(Asked(), flags)
    on = {f"-D{one.option}=ON" for one in (*BASE, *MORE) if one.reported <= flags}
    off = {f"-D{one.option}=OFF" for one in BASE if not one.reported <= flags}
    said = build.args.split()
    assert said[0] == "-DGGML_NATIVE=OFF"
    assert {one for one in said if one.endswith("=ON")} <= on
    assert {one for one in said[1:] if one.endswith("=OFF")} == off
    assert not off or not build.more  # what is beyond the least is built upon the least


@given(flag_sets, st.booleans(), st.sets(st.sampled_from([option for one in MORE for option in one.compiler])))
def test_amx_is_never_built_for(flags: set[str], asked_portable: bool, refused: set[str]) -> None:
    """Its tiles trap on some virtual machines that report them."""
    build = builds.choose(Asked(portable=asked_portable), {*flags, "amx_tile", "amx_int8", "amx_bf16"})
    for one in (build, builds.portable(build), builds.unknown_to_compiler(build, refused)):
        assert "AMX" not in one.args


@given(flag_sets)
def test_the_portable_build_uses_nothing_beyond_the_least(flags: set[str]) -> None:
    """Asked for, or taken after a failed trial: it is the same."""
    fallback = builds.portable(builds.choose(Asked(), flags))
    assert fallback == builds.choose(Asked(portable=True), flags)
    assert "=ON" not in fallback.args


def test_a_cpu_of_which_nothing_is_known_gets_the_portable_build() -> None:
    """ARM and macOS."""
    assert builds.choose(Asked(), None) == Build()
    assert Build().args == "-DGGML_NATIVE=OFF"


def test_options_of_the_user_are_taken_as_they_are() -> None:
    """With them the build is portable unless they decide that, and nothing is said of single sets."""
    cuda, native = (builds.choose(Asked(user), ZEN_5.split()) for user in ("-DGGML_CUDA=on", "-DGGML_NATIVE=ON"))
    assert (cuda.args, cuda.more) == ("-DGGML_CUDA=on -DGGML_NATIVE=OFF", ())
    assert (native.args, native.more) == ("-DGGML_NATIVE=ON", ())


def test_a_set_that_the_compiler_does_not_know_is_left_out() -> None:
    """GCC 10 has no option for AVX-VNNI; without AVX-512 all that needs it goes too."""
    build = builds.choose(Asked(), ZEN_5.split())
    assert builds.unknown_to_compiler(build, []) == build
    assert builds.unknown_to_compiler(build, ["-mavxvnni"]).name == "avx512-vbmi-vnni-bf16"
    assert builds.unknown_to_compiler(build, ["-mavx512vl"]).name == "avxvnni"


@pytest.mark.parametrize(
    ("cmake_args", "portable", "stamp", "wanted"),
    [
        ("", "", {}, Asked()),
        ("", "1", {}, Asked(portable=True)),
        ("", "", {"cmake_args": "", "portable": "1"}, Asked(portable=True)),
        ("", "0", {"cmake_args": "", "portable": "1"}, Asked()),
        ("", "", {"cmake_args": "-DX=1", "portable": "0"}, Asked("-DX=1")),
        ("", "0", {"cmake_args": "-DX=1", "portable": "0"}, Asked()),
        (" ", "", {"cmake_args": "-DX=1", "portable": "0"}, Asked("-DX=1")),
        ("-DY=1", "", {"cmake_args": "-DX=1", "portable": "1"}, Asked("-DY=1")),
    ],
)
def test_what_was_asked_for_once_holds_until_something_else_is(
    cmake_args: str, portable: str, stamp: dict[str, str], wanted: Asked
) -> None:
    """`PORTABLE=0` goes back to what set-up takes by itself."""
    assert builds.asked(cmake_args, portable, stamp) == wanted


def test_an_unclear_wish_is_refused() -> None:
    """`PORTABLE=no` must not ask for the portable build."""
    with pytest.raises(SetupProblem, match="PORTABLE is 1 or 0, not no"):
        builds.asked("", "no", {})


@pytest.mark.parametrize(
    ("stamp", "made"),
    [
        ({}, None),
        ({"packages": "abc"}, None),
        ({"cmake_args": ""}, "-DGGML_NATIVE=OFF"),
        ({"cmake_args": "-DGGML_CUDA=on"}, "-DGGML_CUDA=on -DGGML_NATIVE=OFF"),
        ({"cmake_args": "", "build": "-DGGML_NATIVE=OFF -DGGML_AVX512=ON"}, "-DGGML_NATIVE=OFF -DGGML_AVX512=ON"),
    ],
)
def test_what_an_environment_was_made_with_is_known(stamp: dict[str, str], made: str | None) -> None:
    """Also where it was made before builds were chosen by CPU; not where it was made by hand."""
    assert builds.made(stamp) == made


def test_only_what_all_cpus_report_counts() -> None:
    """Some machines have two kinds of cores, and a thread may run on any."""
    text = "processor\t: 0\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx\n"
    assert builds.cpu_flags(text) == frozenset({"fpu", "avx"})
    assert builds.cpu_flags("processor\t: 0\nFeatures\t: fp asimd\n") is None
    assert builds.cpu_flags("") is None


def test_a_trial_holds_for_one_cpu_model_and_one_kernel() -> None:
    """The order of flags and the clock of the moment make no difference."""
    text = "model name\t: Some CPU\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n"
    here = builds.machine_key(text.format(mhz=1000, flags="avx fpu"), "6.1")
    assert here == builds.machine_key(text.format(mhz=2000, flags="fpu avx"), "6.1")
    assert here != builds.machine_key(text.format(mhz=1000, flags="avx"), "6.1")
    assert here != builds.machine_key(text.format(mhz=1000, flags="avx fpu"), "6.2")
    assert here != builds.machine_key(text.format(mhz=1000, flags="avx fpu").replace("Some", "Any"), "6.1")


texts = st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=1)


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
def test_builds_that_differ_are_kept_apart(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """The folder of a wheel stands for version, options and machine together."""
    folders = [builds.wheel_folder(llama, Build(user=user), machine) for llama, user, machine in (one, other)]
    assert (folders[0] == folders[1]) == (one == other)


def test_a_folder_of_wheels_says_what_is_in_it() -> None:
    """To show what takes the room."""
    own = builds.choose(Asked(), ZEN_5.split())
    assert builds.wheel_folder("0.3.36", Build(), "linux").startswith("0.3.36-portable-")
    assert builds.wheel_folder("0.3.36", own, "linux").startswith("0.3.36-avx512-vbmi-vnni-bf16-avxvnni-")
    assert builds.wheel_folder("0.3.36", Build(user="-DGGML_CUDA=on"), "linux").startswith("0.3.36-custom-")


@pytest.mark.parametrize(
    ("status", "output", "verdict"),
    [
        (0, "", None),
        (3, "it computes wrong numbers (likeness 0.500)\n", "it computes wrong numbers (likeness 0.500)"),
        (-signal.SIGILL, "", "it ended by SIGILL"),
        (-signal.SIGSEGV, "", "it ended by SIGSEGV"),
    ],
)
def test_a_trial_fails_by_what_it_finds_and_by_a_trap(status: int, output: str, verdict: str | None) -> None:
    """A signal of the library's own is its fault."""
    assert builds.trial_verdict(status, output) == verdict


@pytest.mark.parametrize("status", [1, 2, -signal.SIGKILL, -signal.SIGTERM])
def test_a_trial_that_tried_nothing_says_nothing_of_the_build(status: int) -> None:
    """A package that is missing, or an interrupt: set-up fails, and the next make tries again."""
    with pytest.raises(SetupProblem, match="could not be run"):
        builds.trial_verdict(status, "")

"""What applications do to their processes: they are killed, they fork, they block their loop, they reap children."""

from __future__ import annotations

import os
import signal

import pytest
from helpers.parents import all_gone, kill, line, run, running

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The applications have loops of their own."""
    return "asyncio", {"use_uvloop": False}


TWO_AT_WORK = """
async def main():
    async with erllama.Runtime() as runtime:
        models = [await load(runtime, name) for name in "ab"]
        streams = [await begun(model) for model in models]
        {more}
        say(*(model.info.pid for model in models), *others)
        await asyncio.Event().wait()
"""
FORKED = "others = [fork()]  # with all descriptors that its parent has"


async def test_the_children_of_a_parent_that_is_killed_end() -> None:
    """By SIGKILL, in the middle of streams: nothing of it could tell them."""
    with running(TWO_AT_WORK.format(more="others = []")) as parent:
        pids = {int(pid) for pid in line(parent)}
        assert len(pids - {parent.pid}) == 2
        parent.kill()
        await all_gone(pids)


async def test_they_end_although_a_fork_of_their_parent_holds_its_descriptors() -> None:
    """A socket whose other end is open in a process that does not know of it says nothing of its parent's end."""
    with running(TWO_AT_WORK.format(more=FORKED)) as parent:
        *pids, fork = (int(pid) for pid in line(parent))
        try:
            parent.kill()
            await all_gone(set(pids))
            os.kill(fork, 0)  # it lives
        finally:
            kill(fork)


def test_a_parent_that_forks_goes_on() -> None:
    """What is forked may end as it likes: the streams bring the rest, a crash is survived, and the runtime closes."""
    run("""
async def main():
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        stream = await begun(model)
        first = os.fork()
        if first == 0:
            os._exit(0)
        assert os.waitpid(first, 0)[1] == 0
        second = fork()
        os.kill(model.info.pid, signal.SIGSEGV)
        await ended(*stream)
        assert model.info.restarts == 1
        pid = model.info.pid
    assert is_gone(pid)
    assert children() == {second}
    os.kill(second, signal.SIGKILL)
""")


def test_a_fork_in_the_middle_of_a_load_hides_no_end() -> None:
    """It has the child's end of each socket, so none of them tells that the child has died: whoever waits for an
    answer hears of it all the same."""
    run("""
from erllama_py.engine.process import child, embedder, engine
forks = []

def forking(make):
    def pair():
        ends = make()
        forks.append(fork())
        return ends
    return pair

async def main():
    for module in (child, embedder, engine):
        module.socketpair = forking(module.socketpair)
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        await model.embed("hello")
        stream = await begun(model)
        vectors = asyncio.ensure_future(model.embed(["hello " * 100] * 8))
        os.kill(model.info.pid, signal.SIGKILL)
        await ended(*stream)
        await vectors
        assert model.info.restarts == 1
        pid = model.info.pid
    assert is_gone(pid)
    assert len(forks) == 6
    for other in forks:
        os.kill(other, signal.SIGKILL)
""")


def test_a_parent_whose_loop_is_blocked_keeps_its_children() -> None:
    """They work on, and are not taken for hanging; all that they have said is there once the loop turns again."""
    run("""
from helpers.blows import doing, known_children

async def main():
    made = known_children()
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        streams = [await begun(model, number) for number in range(4)]
        child = made["m"][-1]
        while doing(child) != {"idle"}:  # nothing of the loop runs until all is computed
            pass
        for number, stream in enumerate(streams):
            await ended(*stream, number)
        assert model.info.restarts == 0
""")


def test_a_child_that_crashes_while_the_loop_is_blocked_comes_back() -> None:
    """Once the loop turns again, the stream goes on where it was."""
    run("""
async def main():
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        stream = await begun(model)
        pid = model.info.pid
        os.kill(pid, signal.SIGKILL)
        while not is_gone(pid):
            pass
        await ended(*stream)
        assert (model.info.restarts, model.info.last_crash.signal) == (1, "SIGKILL")
""")


REAPERS = {
    "ignores SIGCHLD": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "waits for all children": "threading.Thread(target=reap, daemon=True).start()",
}


@pytest.mark.parametrize("reaper", REAPERS)
def test_an_application_that_reaps_all_children(reaper: str) -> None:
    """Nobody can say how a child ended; that it did is seen all the same, and the stream goes on."""
    run(f"""
def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            threading.Event().wait(0.001)

async def main():
    {REAPERS[reaper]}
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        stream = await begun(model)
        os.kill(model.info.pid, signal.SIGSEGV)
        await ended(*stream)
        assert model.info.restarts == 1
        await ask(model)
        pid = model.info.pid
    assert is_gone(pid)
""")


def test_a_runtime_on_another_thread_than_the_main_one() -> None:
    """A child ends with the thread that began it: not before its time."""
    run(
        """
async def main():
    before = belongings()
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        stream = await begun(model)
        os.kill(model.info.pid, signal.SIGKILL)
        await ended(*stream)
        await ask(model)
        assert model.info.restarts == 1
    await same_as(before)
""",
        """
problems = []
def body():
    try:
        asyncio.run(main())
    except BaseException as error:
        problems.append(error)
for _ in range(2):  # the second has nothing to begin for the first time
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
if problems[1:] or len(problems) == 1 and not isinstance(problems[0], AssertionError):
    raise problems[-1]
""",
    )


def test_two_runtimes_know_nothing_of_each_other() -> None:
    """On two threads of one process, with models of the same id: a crash is one's own matter."""
    run(
        """
async def main(crashes):
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        for _ in range(3):
            stream = await begun(model)
            if crashes:
                os.kill(model.info.pid, signal.SIGSEGV)
            await ended(*stream)
        assert model.info.restarts == 3 * crashes
        pid = model.info.pid
    assert is_gone(pid)
""",
        """
problems = []
def body(crashes):
    try:
        asyncio.run(main(crashes))
    except BaseException as error:
        problems.append(error)
threads = [threading.Thread(target=body, args=(crashes,)) for crashes in (False, True)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if problems:
    raise problems[0]
assert children() == set()
""",
    )


def test_a_parent_that_is_interrupted_ends_its_children() -> None:
    """Ctrl-C is for the parent; its children hear of the end from it."""
    with running(TWO_AT_WORK.format(more="others = []")) as parent:
        pids = {int(pid) for pid in line(parent)}
        parent.send_signal(signal.SIGINT)
        parent.wait()
        assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []


def test_signals_that_ask_to_end_are_for_the_parent() -> None:
    """Who stops a service sends them to all of its processes at once; the parent saves and answers before it ends."""
    run("""
async def main():
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        stream, pid = await begun(model), model.info.pid
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(pid, number)
        await ended(*stream)
        assert (model.info.pid, model.info.restarts) == (pid, 0)
    assert is_gone(pid)
""")


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_one_that_is_stopped_from_outside_is_ended_once_it_has_work(is_busy: bool) -> None:
    """By its watchdog; the requests that it has, and those that come while it stands still, are answered."""
    run(f"""
from erllama_py.engine.process.life import watchdog

async def main():
    watchdog.STOPPED_SECONDS = 0.2
    async with erllama.Runtime() as runtime:
        model = await load(runtime)
        await ask(model)
        if {is_busy}:
            stream = await begun(model)
        os.kill(model.info.pid, signal.SIGSTOP)
        await ask(model, 1)
        if {is_busy}:
            await ended(*stream)
        assert model.info.last_crash.reason == "watchdog", model.info.last_crash
""")

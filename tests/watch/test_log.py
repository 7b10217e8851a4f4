"""Where log events go: to the application's structlog when it has one, else to the standard library."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from erllama_py.watch.log import get_logger


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """structlog as an application that never heard of it has it."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("unconfigured")
def test_an_application_that_configures_nothing_sees_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Not even an error reaches stdout or stderr by itself."""
    get_logger(model="tiny").error("it broke", code=3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("unconfigured")
def test_the_standard_library_gets_records_with_key_values(caplog: pytest.LogCaptureFixture) -> None:
    """The message is readable as it is, and the facts are one attribute, whatever their names."""
    with caplog.at_level(logging.DEBUG, logger="erllama_py"):
        get_logger(model="tiny").warning("it is 100%", name="a", msg="b", module="c")
    [record] = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "erllama_py")
    assert record.getMessage() == "it is 100% model='tiny' name='a' msg='b' module='c'"
    assert vars(record)["erllama"] == {"model": "tiny", "name": "a", "msg": "b", "module": "c"}


@pytest.mark.usefixtures("unconfigured")
def test_an_exception_goes_to_the_standard_library_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """`exc_info` keeps its meaning."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        get_logger().error("it broke", exc_info=True)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.usefixtures("unconfigured")
def test_levels_that_nobody_listens_to_cost_no_record(caplog: pytest.LogCaptureFixture) -> None:
    """The standard library's level is asked first."""
    with caplog.at_level(logging.WARNING, logger="erllama_py"):
        get_logger().debug("chatter")
    assert caplog.records == []


@pytest.mark.usefixtures("unconfigured")
def test_an_application_with_structlog_gets_events_through_its_own_processors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With everything that was bound, and nothing goes to the standard library beside it."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    get_logger(model="tiny").info("loaded", seconds=1)
    assert capture.entries == [{"event": "loaded", "log_level": "info", "model": "tiny", "seconds": 1}]
    assert caplog.records == []

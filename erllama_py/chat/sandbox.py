"""Jinja as chat templates are rendered: in a sandbox, on fuel.

A template is a program that comes with the model file, and nobody has read it. The sandbox keeps it from Python's
internals and from changing what it is given; fuel bounds its time, its memory and its text (`fuel`). What templates may
use beside plain Jinja follows what authors test them with, the Transformers library:
https://huggingface.co/docs/transformers/chat_templating_writing (blocks trimmed, `break` and `continue`,
`raise_exception`, `strftime_now`, `tojson` without HTML escapes, `{% generation %}`).
"""

from __future__ import annotations

import codecs
import importlib
import types
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from erllama_py.chat import costs
from erllama_py.chat.filters import filters, tests
from erllama_py.chat.fuel import fuel, pay, pay_text
from erllama_py.chat.metering import metered, metering_filters
from erllama_py.errors import ChatTemplateError, OutOfResources

MOST_SOURCE = 100_000  # characters; the longest public template has 60,000
MOST_CODE = 400_000  # characters of Python made of it; compiling them stops everything else for some 100 ms
CALL = 8  # of a macro
SMALL = 1 << 62
MOST_KEPT = 2000  # attributes that were looked up
MOST_SAID = 1000  # characters of a template's own refusal

# What Jinja and Python load only once a template needs it: escapes in texts, names of characters, `wordwrap`, `pprint`,
# an error's traceback. A process without a file descriptor could not load it then.
_LATE_CODEC = "unicode_escape"
_LATE_MODULES = ("unicodedata", "textwrap", "pprint", "jinja2.debug")

Read = TypeVar("Read")

_METHODS = (types.BuiltinMethodType, types.MethodType)
_safe: dict[tuple[type, str], bool] = {}


class Sandbox(ImmutableSandboxedEnvironment):
    """See the module."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return metered(super()._parse(source, name, filename))

    def _compile(self, source: str, filename: str) -> types.CodeType:
        if len(source) > MOST_CODE:
            raise ChatTemplateError("the chat template is too long a program")
        return super()._compile(source, filename)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if type(left) is int and type(right) is int and operator in "+-" and -SMALL < left < SMALL > right > -SMALL:
            pay(1)
        else:
            costs.binop(fuel(), operator, left, right)
        return self.binop_table[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        burning = fuel()
        burning.use(1 + len(args) // 8)
        owner = getattr(__obj, "__self__", None) if isinstance(__obj, _METHODS) else None
        if isinstance(owner, costs.PLAIN):  # `Markup` is a text too, with methods written in Python
            if __obj.__name__ == "join" and args and isinstance(owner, str):
                args = (list(burning.steps(args[0])),)
                costs.join(burning, owner, args[0])
            costs.method(burning, owner, __obj.__name__, (*args, *kwargs.values()))
        elif isinstance(__obj, Macro | LoopContext | BlockReference):
            burning.use(CALL)
            with burning.inside():
                return super().call(__context, __obj, *args, **kwargs)
        else:
            args = tuple(list(burning.steps(one)) if hasattr(one, "__next__") else one for one in args)
            burning.deep((args, kwargs))
        return super().call(__context, __obj, *args, **kwargs)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            fuel().deep(argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        kind = type(obj)
        safe = _safe.get((kind, attr))
        if safe is None:  # it depends on the type alone, and is asked for in each loop
            safe = super().is_safe_attribute(obj, attr, value) and costs.is_known(obj, attr)
            if len(_safe) < MOST_KEPT:
                _safe[kind, attr] = safe
        return safe

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if not isinstance(value, _METHODS) or value.__name__ != "format":
            return None
        form = value.__self__
        return _Format(self, form) if isinstance(form, str) else None


class _Format:
    """`str.format`, whose fields are looked up as the sandbox allows, and paid for."""

    def __init__(self, environment: Sandbox, form: str) -> None:
        self._environment, self._form = environment, form

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        fuel().text(len(self._form))
        return _Formatter(self._environment).vformat(self._form, args, kwargs)


class _Formatter(SandboxedFormatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        fuel().use(1 + costs.A_FIELD * (1 + field_name.count(".") + field_name.count("[")))
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        costs.form_field(fuel(), value, format_spec)
        return super().format_field(value, format_spec)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its block is just its content."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pass_context
def _shown(context: Context, value: Any) -> Any:
    """What `{{ … }}` writes."""
    if type(value) is str:
        pay_text(len(value))
    else:
        fuel().deep(value)
    return value


def _raise_exception(message: object) -> NoReturn:
    raise ChatTemplateError(str(message)[:MOST_SAID])


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _make() -> Sandbox:
    codecs.lookup(_LATE_CODEC)
    for name in _LATE_MODULES:
        importlib.import_module(name)
    # Nothing is computed while a template is compiled: there is no fuel then. And what `finalize` shows is paid for
    # each time, since it takes a context.
    made: Any = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation], optimized=False,
        finalize=_shown,
    )  # fmt: skip
    made.filters = {**filters(), **metering_filters()}
    made.tests = tests()
    made.globals["raise_exception"] = _raise_exception
    made.globals["dict"] = _dict
    del made.globals["lipsum"]
    assert isinstance(made, Sandbox)
    return made


sandbox = _make()


def compiled(source: object) -> jinja2.Template:
    """A template. Raises as `read`."""
    return read(source, sandbox.from_string)


def read(source: object, reader: Callable[[str], Read]) -> Read:
    """What `reader` makes of a template's source. Raises `ChatTemplateError` for what is none, with the line where it
    stops being one, and `OutOfResources`."""
    if not isinstance(source, str):
        raise ChatTemplateError(f"a chat template is a str, not {type(source).__name__}")
    if len(source) > MOST_SOURCE:
        raise ChatTemplateError(f"the chat template has {len(source)} characters; at most {MOST_SOURCE}")
    if "\0" in source:
        raise ChatTemplateError("the chat template has a NUL character: it is no text")
    try:
        return reader(source)
    except ChatTemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        check_shortage(error)
        said = f"line {error.lineno}: {error.message}"
        raise ChatTemplateError(f"the chat template does not parse: {said}") from error
    except Exception as error:  # one that nests too deeply for Python
        check_shortage(error)
        said = f"{type(error).__name__}: {error}"
        raise ChatTemplateError(f"the chat template does not compile: {said[:MOST_SAID]}") from error


def check_shortage(error: BaseException) -> None:
    """Raises `OutOfResources` where the system, not the template, is the reason of an error: a template opens no file,
    and fuel bounds its memory."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError | MemoryError):
            said = f"{type(seen).__name__}: {seen}" if str(seen) else type(seen).__name__
            raise OutOfResources(f"the chat template could not be used: {said}") from seen
        seen = seen.__cause__ or seen.__context__

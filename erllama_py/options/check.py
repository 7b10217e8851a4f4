"""How options are checked: names by `names`, types and bounds by msgspec, whose messages are reworded."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.errors.shown import shown
from erllama_py.options.elsewhere import MOST_NAME, WRITTEN
from erllama_py.options.names import UNKNOWN, CheckedNames, is_section, option_names, section_of_each, types_of, unknown

S = TypeVar("S", bound=msgspec.Struct)

INT32_MAX = (1 << 31) - 1  # llama.cpp holds sizes in 32-bit integers
Count = Annotated[int, Meta(ge=1, le=INT32_MAX)]
Amount = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Deadline = Annotated[float, Meta(gt=0.0, le=1e9)]  # seconds from a call on
OnCrash = Literal["continue", "fail"]  # what becomes of a call whose model crashes

if TYPE_CHECKING:
    PathText = str | os.PathLike[str]  # what may be given
else:
    PathText = str  # what a checked struct holds

# Real numbers go to llama.cpp as 32-bit floats: larger ones would become infinite there, smaller ones zero.
FLOAT32_MAX = 3.4028234e38
FLOAT32_MIN = 1.1754944e-38

MOST_UTF8 = 1 << 20  # characters: 1.5 ms on the event loop

# Whose values no error repeats: it may end in a log, and what is at fault may be the key itself in place of its hash.
SECRETS = {"cache_salt", "hash", "salt", "secret", "thinking_signing_key", "tls_key_password"}
_PATH = re.compile(r" - at (?P<key>`key` in )?`\$\.(?P<option>[\w.\[\]]*?)(\[(?P<index>\d+|\.\.\.)\])?`$")
_STEP = re.compile(r"\w+|(?<=\[)\d+")  # of such a path: a name, or a place in a list
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`(?: - at `\$\.(?P<path>[\w.\[\]]+)`)?$")
_WORDS = {"object": "a mapping", "array": "a list", "null": "None", "duration": "timedelta"}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, metaclass=CheckedNames):
    """The base of all option structs: immutable, by keyword, unknown names refused."""


def convert(options: object, kind: type[S], **prepare: Callable[[Any], object]) -> S:
    """`options`, a mapping or a struct of this kind, as a checked struct. Raises `InvalidOption`.

    `prepare` holds functions by option name: what a caller may write, to what the struct holds.
    """
    if not isinstance(options, kind | Mapping):
        raise InvalidOption("options", f"expected a mapping or {kind.__name__}, got {type(options).__name__}")
    plain = {name: _as_dict(value) for name, value in _as_dict(options).items()}
    _check_names(plain, kind, kind, "")
    for name, prepared in prepare.items():
        if plain.get(name) is not None:
            try:
                plain[name] = prepared(plain[name])
            except ValueError as error:
                raise InvalidOption(name, str(error)) from None
    try:
        converted = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), plain, kind) from None
    _check_floats(converted, "")
    return converted


@contextmanager
def under(path: str) -> Iterator[None]:
    """Errors about options in this block name them with the caller's path: below `path`."""
    try:
        yield
    except InvalidOption as error:
        option = path if error.option == "options" else f"{path}.{error.option}"
        nearest = f"{path}.{error.nearest}" if error.problem == UNKNOWN and error.nearest else error.nearest
        raise InvalidOption(option, error.problem, nearest) from None


def _as_dict(value: Any) -> Any:
    """What is given by a struct or a mapping, which a caller may mix, as a dict; everything else as it is."""
    if isinstance(value, msgspec.Struct):
        return {name: one for name, one in msgspec.structs.asdict(value).items() if one is not msgspec.UNSET}
    return dict(value) if isinstance(value, Mapping) else value


def _check_names(
    options: dict[Any, object], section: type[msgspec.Struct], kind: type[msgspec.Struct], path: str
) -> None:
    """Hold the names in one section of `kind`, and in those below it, against the known ones."""
    for name, value in options.items():
        if not isinstance(name, str):
            raise InvalidOption(path or "options", "the names of options are str")
        dotted = f"{path}.{name}" if path else name
        if name not in section.__struct_fields__:
            raise unknown(name, path, list(option_names(kind)))
        if isinstance(value, set | frozenset):  # msgspec would take one for a list, in an order of its own
            raise InvalidOption(dotted, "expected a list, got a set")
        below = types_of(section)[name]
        if isinstance(value, dict) and is_section(below):
            _check_names(value, below, kind, dotted)
        elif isinstance(value, list) and (each := section_of_each(below)) is not None:
            for index, one in enumerate(value):
                if isinstance(one, dict):
                    with under(f"{dotted}[{index}]"):
                        _check_names(one, each, each, "")


def _refusal(text: str, options: Mapping[str, Any], kind: type[msgspec.Struct]) -> InvalidOption:
    """What msgspec says of the values in `options`, as an error that names the option and what was found."""
    if missing := _MISSING.match(text):
        return InvalidOption(".".join(filter(None, (missing["path"], missing["name"]))), "it is needed")
    found = _PATH.search(text)
    assert found is not None  # names are known to be good: what is left to refuse is the value of an option
    option, problem = found["option"], _PATH.sub("", text)
    value: Any = options
    for name in _STEP.findall(option):
        value = value[int(name) if name.isdigit() else name]
    each = "key" if found["key"] else "value" if found["index"] == "..." else ""
    if each:
        problem = f"each {each}: {problem[:1].lower()}{problem[1:]}"
    elif found["index"]:
        value = list(value)[int(found["index"])]
    if problem.startswith("Invalid enum value"):
        problem = f"expected one of {', '.join(map(repr, choices(kind, option)))}"
    problem = re.sub(r"`([^`]*)`", lambda quoted: _spoken(quoted[1]), problem)
    problem += _instead(option, value, problem) if not each else ""
    if "got" not in problem and not each:
        hidden = isinstance(value, str) and option.rpartition(".")[2] in SECRETS
        problem += f", got {len(value) if ' length ' in problem else 'another text' if hidden else shown(value)}"
    return InvalidOption(option, problem[:1].lower() + problem[1:])


def _instead(option: str, value: object, problem: str) -> str:
    """What to write for a value that other libraries take."""
    if value is None:
        return ": leave it out for the default"
    if not isinstance(value, str) or not re.match(r"expected `?(int|float)", problem, re.I):
        return ""
    if re.fullmatch(r"-?\d{1,18}" + (r"(\.\d{1,18})?" if "float" in problem else ""), value):
        return f": write {value} without quotes"
    said = WRITTEN.get(option.rpartition(".")[2])
    return f": {said}" if said else ""


def _spoken(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))


def not_among(option: str, known: Iterable[str], value: object, expected: str = "") -> InvalidOption:
    """The error for a value that is not one of the known words, with the nearest of them."""
    words = sorted(known)
    close = difflib.get_close_matches(value[:MOST_NAME], words, n=1) if isinstance(value, str) else []
    problem = f"expected {expected}one of {', '.join(map(repr, words))}, got {shown(value)}"
    return InvalidOption(option, problem, close[0] if close else None)


def _check_floats(options: msgspec.Struct, prefix: str) -> None:
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if isinstance(value, msgspec.Struct):
            _check_floats(value, f"{prefix}{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and number and not FLOAT32_MIN <= abs(number) <= FLOAT32_MAX:
                raise InvalidOption(prefix + name, f"expected a finite number of 32 bits, got {number}")


def choices(kind: type[msgspec.Struct], option: str) -> list[object]:
    """The literal values that the option at this dotted path, or each of its items, may have."""
    type_: Any = kind
    for name in re.sub(r"\[\d+\]", "", option).split("."):
        type_ = types_of(section_of_each(type_) or type_)[name]
    info = msgspec.inspect.type_info(type_)
    values: list[object] = []
    if isinstance(info, msgspec.inspect.VarTupleType):
        info = info.item_type
    for one in info.types if isinstance(info, msgspec.inspect.UnionType) else (info,):
        match one:
            case msgspec.inspect.BoolType():
                values += [True, False]
            case msgspec.inspect.LiteralType(values=literals):
                values += literals
    return values


def hex_digest(value: object) -> str:
    """32 bytes or 64 hex digits as lower-case hex digits. Raises `ValueError`."""
    if isinstance(value, bytes) and len(value) == 32:
        return value.hex()
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return value.lower()
    raise ValueError("expected 32 bytes or 64 hex digits")


def check_utf8(option: str, text: str) -> None:
    """Refuse a text that no tokenizer and no file could take. One of megabytes is not looked at: whoever reads it does,
    or refuses it for its length."""
    if len(text) > MOST_UTF8:
        return
    try:
        text.encode()  # looking at each character would take twenty times as long
    except UnicodeEncodeError:
        raise InvalidOption(option, "the text has no UTF-8 form: it holds a lone surrogate") from None


def plain_path(path: object) -> object:
    """A path object as the str that it stands for; everything else as it is."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def absolute_path(option: str, path: PathText) -> str:
    """`path` from the working directory, a `~` at its beginning replaced. Raises `InvalidOption`."""
    if not path or "\0" in str(path):
        raise InvalidOption(option, "a path is not empty and has no NUL character")
    try:
        os.fsencode(path)  # a name of other bytes than UTF-8 has a form: `os.fsdecode` makes a str of it
        return str(Path(os.path.expanduser(path)).absolute())
    except UnicodeEncodeError:
        raise InvalidOption(option, "no file can have this name: it holds a lone surrogate") from None
    except OSError as error:
        raise InvalidOption(option, f"it is relative, and there is no working directory: {error}") from error

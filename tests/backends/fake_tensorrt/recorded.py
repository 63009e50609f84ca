"""TensorRT's Python module as it was recorded: it refuses whatever the real one would refuse.

The names, signatures and enumerations are those of one version (tests/backends/tensorrt_api). What
classes do is told by behaviours: a Python class of the same name. A call that the version does not
have, or whose arguments no overload fits, raises Misuse, which no `except Exception` catches.
"""

from __future__ import annotations

import functools
import gzip
import inspect
import json
import keyword
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tensorrt_api"
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")

_INTS = ("int", "typing.SupportsInt")
_ANY = ("capsule", "object", "typing_extensions.CapsuleType")


class Misuse(BaseException):
    """What the program did with TensorRT cannot be done with this version."""


class _NamesOnly(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Misuse(f"{cls.__name__} has no {name}")


class Member:
    """A member of an enumeration of pybind11: no int, but it can be made one."""

    def __init__(self, of: str, name: str, value: int) -> None:
        self.of, self.name, self.value = of, name, value

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __repr__(self) -> str:
        return f"<{self.of}.{self.name}: {self.value}>"


def module(version: str, behaviours: Mapping[str, type]) -> types.ModuleType:
    """The module `tensorrt` of a version; `behaviours` are what its classes do, by their names."""
    api = json.loads(gzip.decompress((FOLDER / f"{version}.json.gz").read_bytes()))
    made = _Module(f"tensorrt {version}")
    made.__version__ = api["version"]
    for name, members in api["enums"].items():
        setattr(made, name, _enumeration(name, members))
    waiting = dict(api["classes"])
    while waiting:
        ready = [name for name, one in waiting.items() if not set(one["bases"]) & set(waiting)]
        for name in ready:
            setattr(made, name, _Maker(made, name, waiting.pop(name), behaviours.get(name)).made())
    if unknown := set(behaviours) - set(api["classes"]):
        raise Misuse(f"tensorrt {version} has no classes {unknown}")
    return made


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise Misuse(f"{self.__name__} has no {name}")


def _enumeration(name: str, members: Mapping[str, int]) -> type:
    by_value: dict[int, Member] = {}
    found = {key: by_value.setdefault(v, Member(name, key, v)) for key, v in members.items()}
    return _NamesOnly(name, (), {**found, "_members": frozenset(by_value.values())})


class _Maker:
    """Makes one class."""

    def __init__(
        self, of: types.ModuleType, name: str, spec: Mapping[str, Any], behaviour: type | None
    ) -> None:
        self._module, self._name, self._spec, self._behaviour = of, name, spec, behaviour

    def made(self) -> type:
        spec, behaviour = self._spec, self._behaviour
        bases = tuple(getattr(self._module, base) for base in spec["bases"])
        members: dict[str, Any] = {"_trt": self._module}
        for name, signatures in spec["methods"].items():
            if name not in ("__enter__", "__exit__"):
                members[name] = self._method(name, [_signature(text) for text in signatures])
        for name, how in spec["properties"].items():
            members[name] = self._property(name, how)
        for name in vars(behaviour or object):  # one behaviour serves all versions
            if name not in members and not name.startswith("_"):
                members[name] = property(functools.partial(self._refuse, name))
        for name, nested in spec["nested"].items():
            if name == nested_name(spec["nested"]):
                kind = _enumeration(name, nested)
                members |= {name: kind, **{key: getattr(kind, key) for key in nested}}
        made: type = type(self._name, (*bases, *((behaviour,) if behaviour else ())), members)
        made.__setattr__ = self._setattr(made)  # type: ignore[method-assign, assignment]
        made.__getattr__ = self._getattr  # type: ignore[attr-defined]
        return made

    def _method(self, name: str, signatures: Sequence[inspect.Signature]) -> Any:
        does = getattr(self._behaviour or object, name, None)
        if name == "__init__" and does is object.__init__:
            does = _nothing

        def call(this: Any, *given: Any, **named: Any) -> Any:
            for signature in signatures:
                try:
                    bound = signature.bind(*given, **named)
                except TypeError:
                    continue
                if all(
                    self._fits(value, signature.parameters[key])
                    for key, value in bound.arguments.items()
                ):
                    if does is None:
                        raise Misuse(f"the fake has no {self._name}.{name}: write it")
                    this.__dict__.setdefault("_is_made", name == "__init__")
                    return does(this, *bound.arguments.values())
            raise Misuse(
                f"{self._name}.{name}{given}{named or ''} fits none of "
                f"{[str(signature) for signature in signatures]}"
            )

        return call

    def _property(self, name: str, how: str) -> property:
        own = getattr(self._behaviour, name, None)

        def get(this: Any) -> Any:
            return own.fget(this) if isinstance(own, property) else this.__dict__.get(f"_{name}")

        def put(this: Any, value: Any) -> None:
            if how != "rw":
                raise Misuse(f"{self._name}.{name} cannot be set")
            this.__dict__[f"_{name}"] = value

        return property(get, put)

    def _setattr(self, made: type) -> Any:
        def put(this: Any, name: str, value: Any) -> None:
            known = name.startswith("_") or name in self._spec["properties"]
            if not known and type(this) is made:
                raise Misuse(f"{self._name}.{name} cannot be set: there is none")
            object.__setattr__(this, name, value)

        return put

    def _getattr(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse(name)

    def _refuse(self, name: str, this: Any = None) -> None:
        raise Misuse(f"{self._module.__name__}: {self._name} has no {name}")

    def _fits(self, value: Any, parameter: inspect.Parameter) -> bool:
        if value is None:
            return parameter.default == "None"
        return _is_a(value, str(parameter.annotation), self._module)


def make(of: types.ModuleType, name: str, *new: Any, **state: Any) -> Any:
    """An object that only TensorRT itself makes; `new` are the arguments of its `__new__`."""
    kind = getattr(of, name)
    made = kind.__new__(kind, *new)
    made.__dict__.update(_is_made=True, **state)
    return made


def _nothing(this: Any, *given: Any) -> None:
    """A class whose state nobody asks for."""


def nested_name(nested: Mapping[str, Mapping[str, int]]) -> str | None:
    """The enumeration inside a class: pybind11 shows its members as attributes beside it."""
    return next((name for name, of in nested.items() if name not in of), None)


def _is_a(value: Any, annotation: str, of: types.ModuleType) -> bool:
    """Whether pybind11 would take the value for a parameter of this type."""
    if annotation in _INTS:
        return isinstance(value, int | Member)
    if annotation in ("bool", "str", "tuple", "list"):
        return isinstance(
            value, {"bool": bool, "str": str, "tuple": tuple, "list": list}[annotation]
        )
    if annotation in ("buffer", "collections.abc.Buffer"):
        return isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "madvise")
    if found := re.fullmatch(r"(?:List|list|collections\.abc\.Sequence)\[(.*)\]", annotation):
        return isinstance(value, list | tuple) and all(_is_a(v, found[1], of) for v in value)
    if annotation in _ANY:
        return True
    name = re.split(r"\.|::", annotation)[-1]
    if name == "Dims" and isinstance(value, tuple | list):
        return all(isinstance(extent, int) for extent in value)
    kind = vars(of).get(name)
    if kind is None:
        raise Misuse(f"the fake does not know what a {annotation} is")
    if isinstance(kind, _NamesOnly):
        return value in kind._members  # type: ignore[attr-defined]
    if isinstance(value, kind) and not value.__dict__.get("_is_made"):
        raise Misuse(f"{name}.__init__() must be called when overriding __init__")
    return isinstance(value, kind)


def _signature(text: str) -> inspect.Signature:
    """The signature in the first line of a docstring of pybind11."""
    inner = text[text.index("(") + 1 : text.rindex(") ->")]
    parameters = []
    for part in _split(inner):
        found = re.fullmatch(r"(\w+)(?:: (.*?))?(?: = (.*))?", part.strip(), re.DOTALL)
        if found is None:
            raise Misuse(f"the signature {text} cannot be read")
        if found[1] != "self":
            default = inspect.Parameter.empty if found[3] is None else found[3]
            if found[3] is None and parameters and parameters[-1].default is not default:
                default = "given after optional ones"  # which Python does not have
            parameters.append(
                inspect.Parameter(
                    found[1] + "_" * keyword.iskeyword(found[1]),
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=default,
                    annotation=found[2],
                )
            )
    return inspect.Signature(parameters)


def _split(text: str) -> list[str]:
    """The parts between commas that no bracket holds."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]

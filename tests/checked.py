"""What the tests put around the functions of proponent: types are checked everywhere, axes where there are arrays.

The import hook of jaxtyping wraps every function so that axes agree between all arguments and the result: it binds the
call and checks the arguments twice, which took three quarters of the time of some test files; and while it loads a
module, whatever that module imports is compiled anew. Here a function without arrays, which has no axes, gets the same
type checker once; functions and dataclasses with arrays get it once, too, within a context that holds their axes.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.machinery
import importlib.util
import inspect
import io
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, ModuleType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

PACKAGE = "proponent"
_types = beartype(conf=BeartypeConf(violation_type=TypeError))
_types_within = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
_axes = jaxtyping.jaxtyped("context")
_LATER = (str, typing.ForwardRef)
_MARK = f"__import__({__name__!r}).checked"


def install() -> None:
    """Check every module of proponent that is imported from now on."""
    assert PACKAGE not in sys.modules
    sys.meta_path.insert(0, Finder())


def checked(made: Any) -> Any:
    """Decorate a function or a class."""
    if not inspect.isclass(made):
        if has_arrays(made):
            return _types_and_axes(made)
        # A function inside another is made at every call of that one; to wrap it takes longer than most calls.
        return made if "<locals>" in made.__qualname__ else _types(made)
    if dataclasses.is_dataclass(made):
        made.__init__ = (_types_and_axes if has_arrays(made.__init__) else _types)(made.__init__)
    return made


def _types_and_axes(made: Callable[..., Any]) -> Callable[..., Any]:
    """Check types within a context of axes; jaxtyping does it for generators, which run later, and unknown names."""
    if inspect.isgeneratorfunction(made) or any(isinstance(hint, _LATER) for hint in _hints(made)):
        return jaxtyping.jaxtyped(typechecker=_types)(made)
    typed: Callable[..., Any] | None = None  # at the first call: most are never called

    @functools.wraps(made)
    def within(*args: Any, **named: Any) -> Any:
        nonlocal typed
        if typed is None:
            typed = _types_within(made)
        with _axes:
            try:
                return typed(*args, **named)
            except jaxtyping.TypeCheckError as error:
                if not hasattr(error, "__notes__"):
                    error.add_note(_bound())
                raise

    return within


def _bound() -> str:
    """The sizes of the axes in this context."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        jaxtyping.print_bindings()
    return said.getvalue()


def has_arrays(function: Callable[..., Any]) -> bool:
    """Whether an argument or the result is an array with axes, or holds some; names not known yet may be some."""
    return any(isinstance(hint, _LATER) or _is_array(hint) for hint in _hints(function))


def _is_array(hint: object) -> bool:
    return inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)


def _hints(function: Callable[..., Any]) -> Iterator[object]:
    """The hints of a function and all that they are made of."""
    left: list[object] = list(getattr(function, "__annotations__", {}).values())
    while left:
        hint = left.pop()
        yield hint
        left += hint if isinstance(hint, list) else typing.get_args(hint)


class Finder(importlib.machinery.PathFinder):
    """Finds the modules of proponent and has them loaded with the checks."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        found = super().find_spec(fullname, path, target)
        if found is not None and type(found.loader) is importlib.machinery.SourceFileLoader:
            found.loader = Loader(found.loader.name, found.loader.path)
        return found


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with `checked` innermost around its functions and outermost around its classes."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(importlib.util.decode_source(self.get_data(path)), path)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                node.decorator_list.insert(0, _mark(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.decorator_list.append(_mark(node))
        return compile(tree, path, "exec", dont_inherit=True)


def _mark(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr:
    """The decorator, in the line of what it decorates."""
    made = ast.parse(_MARK, mode="eval").body
    for part in ast.walk(made):
        ast.copy_location(part, node)
    return made

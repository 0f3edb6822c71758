"""What the tests put around the functions of proponent: types are checked everywhere, axes where there are arrays.

The import hook of jaxtyping wraps every function so that axes agree between all arguments and the result: it binds the
call and checks the arguments twice, which took three quarters of the time of some test files; and while it loads a
module, whatever that module imports is compiled anew. Here a function without arrays, which has no axes, gets the same
type checker once; functions and dataclasses with arrays get what that hook gives them.
"""

import ast
import dataclasses
import importlib.machinery
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

PACKAGE = "proponent"
_types = beartype(conf=BeartypeConf(violation_type=TypeError))
_types_and_axes = jaxtyping.jaxtyped(typechecker=_types)
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
        if has_arrays(made.__init__):
            return _types_and_axes(made)
        made.__init__ = _types(made.__init__)
    return made


def has_arrays(function: Callable[..., Any]) -> bool:
    """Whether an argument or the result is an array with axes, or holds some."""
    return any(_names_array(hint) for hint in getattr(function, "__annotations__", {}).values())


def _names_array(hint: object) -> bool:
    if isinstance(hint, str | typing.ForwardRef):  # not known yet: jaxtyping alone does without it
        return True
    if isinstance(hint, list):
        return any(_names_array(one) for one in hint)
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_names_array(one) for one in typing.get_args(hint))


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

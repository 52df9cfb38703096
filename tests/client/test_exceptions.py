"""Exceptions cross process pools: each public one is the same after pickling and copying."""

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator

import pytest

import regrade
from regrade import RegradeError


def _public_exceptions() -> Iterator[type[Exception]]:
    names = [module.name for module in pkgutil.walk_packages(regrade.__path__, "regrade.")]
    for name in ["regrade", *(name for name in names if not name.endswith("__main__"))]:
        module = importlib.import_module(name)
        kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)]
        yield from (kind for kind in kinds if kind.__module__ == name and not kind.__name__.startswith("_"))


def _pickled(error: Exception) -> Exception:
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]  # noqa: S301 - as a process pool does


EXCEPTIONS = sorted(_public_exceptions(), key=lambda kind: kind.__name__)


def test_the_walk_reaches_the_package() -> None:
    assert {"RegradeError", "UnscoredError", "UnknownTaskError"} <= {kind.__name__ for kind in EXCEPTIONS}


@pytest.mark.parametrize("copied", [_pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_is_the_same_in_another_process(
    kind: type[Exception], copied: Callable[[Exception], Exception]
) -> None:
    error = kind("some_code", "why") if issubclass(kind, RegradeError) else kind("why")
    error.add_note("a note")
    other = copied(error)
    assert type(other) is kind
    assert (str(other), repr(other), other.args, vars(other)) == (str(error), repr(error), error.args, vars(error))

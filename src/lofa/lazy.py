"""Names of a package that are looked for in its modules when they are first used (PEP 562)."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: each name of its `__all__` is in the `__all__` of one of `modules`.

    They are imported in this order until a name is found: those that import little stand first. So options and their
    help cost no import of PyTorch.

    Args:
        package: its name
        modules: names of its modules, separated by spaces
    """

    places = modules.split()

    def find(name: str) -> Any:
        if name in places:
            return import_module(f"{package}.{name}")
        if name in sys.modules[package].__all__:
            for module in places:
                found = import_module(f"{package}.{module}")
                if name in found.__all__:
                    setattr(sys.modules[package], name, getattr(found, name))
                    return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted(sys.modules[package].__all__)

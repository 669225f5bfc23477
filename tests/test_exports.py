"""What a package offers is a list: `__all__` where there is one names exactly the public names."""

from __future__ import annotations

import importlib
import pkgutil
import types

import pytest

import diptych


def packages() -> list[str]:
    below = pkgutil.walk_packages(diptych.__path__, "diptych.")
    return ["diptych", *(module.name for module in below if module.ispkg)]


def natural(name: str) -> tuple[int, str]:
    """Constants, classes, functions: the order that linters keep."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def own_names(package: types.ModuleType) -> set[str]:
    """Public names that the package's `__init__` defines itself; what it imports may be for its own use."""
    return {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == package.__name__
    }


@pytest.mark.parametrize("name", packages())
def test_all_equals_the_public_namespace(name: str) -> None:
    package = importlib.import_module(name)
    listed = getattr(package, "__all__", [])
    assert list(listed) in (sorted(listed), sorted(listed, key=natural)), "not sorted"
    assert {item for item in listed if not hasattr(package, item)} == set()
    assert own_names(package) - set(listed) == set()


def test_the_top_package_offers_its_list_and_nothing_else() -> None:
    modules = {name for name, value in vars(diptych).items() if isinstance(value, types.ModuleType)}
    public = {name for name in vars(diptych) if not name.startswith("_")} - modules - {"annotations"}
    assert public == {name for name in getattr(diptych, "__all__", []) if not name.startswith("_")}

"""Translates the pure core and the simulator's hot path to C with mypyc, for `CompiledCore.cmake`.

    python cmake/compiled_core.py SOURCE_FOLDER OUTPUT_FOLDER

Writes C sources, mypyc's runtime and `targets.cmake` below OUTPUT_FOLDER; files that would not change keep
their times, so nothing is compiled twice. `--list` prints the modules of each library instead. Ends with 1
where mypyc is missing or refuses a module.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from pathlib import Path

LIBRARIES = {
    "diptych.core.compiled": ("diptych/core",),
    "diptych.sim.compiled": ("diptych/sim/driver.py", "diptych/sim/timed", "diptych/sim/workloads/text.py"),
}
"""What is translated together, and where its modules are. Two libraries, so that serving loads one only."""


def compilable(text: str) -> bool:
    """Whether mypyc keeps the meaning of a module, as far as its classes go.

    mypyc drops class keywords without a word (`frozen=True`, `array_like=True`), and a class over a foreign
    base gains nothing: modules that define msgspec structs, exceptions or dataclasses stay interpreted.
    """
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    own = {node.name for node in classes} | {"Protocol"}
    return not any(
        node.keywords or node.decorator_list or {ast.unparse(base) for base in node.bases} - own
        for node in classes
    )


def modules(source: Path, places: tuple[str, ...]) -> list[str]:
    """Paths below `source` of the modules to translate; packages' `__init__` only import and stay."""
    found: list[Path] = []
    for place in places:
        path = source / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    kept = [path for path in found if path.name != "__init__.py" and compilable(path.read_text("utf-8"))]
    return [path.relative_to(source).as_posix() for path in kept]


def translate(source: Path, output: Path) -> list[str]:
    """Lines of `targets.cmake`: one library each, and the modules that are found in it."""
    import mypyc
    from mypyc.build import mypycify

    runtime = output / "runtime"
    _copy_changed(Path(mypyc.__file__).parent / "lib-rt", runtime)
    # Relative paths end up in tracebacks, which then find the lines wherever the package is installed.
    os.chdir(source)
    options = ["--config-file=", "--ignore-missing-imports", f"--cache-dir={os.devnull}"]
    lines = [f'set(COMPILED_RUNTIME "{runtime}")']
    for library, places in LIBRARIES.items():
        paths = modules(source, places)
        folder = output / library
        extensions = mypycify([*options, *paths], target_dir=str(folder), group_name=library)
        shared, *shims = extensions
        lines.append(f'diptych_compiled_library({shared.name} "{folder}" {_quoted(shared.sources)})')
        lines += [f"diptych_compiled_module({shim.name} {_quoted(shim.sources)})" for shim in shims]
    return lines


def _quoted(paths: list[str]) -> str:
    return " ".join(f'"{path}"' for path in paths)


def _copy_changed(source: Path, target: Path) -> None:
    """The folder that mypyc comes in is another one in every isolated build: its files get a fixed place."""
    for path in sorted(source.rglob("*.[ch]")):
        copy = target / path.relative_to(source)
        if not copy.is_file() or copy.read_bytes() != path.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--list"]:
        for library, places in LIBRARIES.items():
            print(library, *modules(Path(arguments[1]), places))
        return 0
    source, output = (Path(argument).resolve() for argument in arguments)
    output.mkdir(parents=True, exist_ok=True)
    try:
        lines = translate(source, output)
    except ImportError as error:
        print(f"mypyc cannot be imported: {error}")
        return 1
    (output / "targets.cmake").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

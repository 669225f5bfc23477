"""Documents name what exists: paths, classes, options, make targets, links; and nobody's own machine."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
SOURCES = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")))
NOT_OURS = {*dir(builtins), "Makefile"}
"""Words in the shape of a class that are defined elsewhere."""

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def code_spans(text: str) -> list[str]:
    """What stands between backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def commands(text: str) -> list[str]:
    """Code spans and the lines of shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [*code_spans(text), *(line for block in blocks for line in block.splitlines())]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, flags=re.MULTILINE))


def benchmarks() -> set[str]:
    """Programs of `bench` that report figures; the other files there are their parts."""
    programs = set((ROOT / "bench").glob("*.py")) - {ROOT / "bench" / "report.py"}
    return {path.stem for path in programs if "finish(" in path.read_text()}


@documents
def test_paths_exist(path: Path) -> None:
    rooms = "src|tests|bench|docs|examples|.ci"
    named = {span for span in code_spans(path.read_text()) if re.fullmatch(rf"({rooms})(/[\w./-]+)?", span)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@documents
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


@documents
def test_make_targets_exist(path: Path) -> None:
    named = {
        name
        for command in commands(path.read_text())
        for name in re.findall(r"\bmake ([a-z][\w-]*)", command)
    }
    assert sorted(named - make_targets() - {"bench-"}) == []


@documents
def test_names_of_classes_and_constants_are_defined(path: Path) -> None:
    spans = (span.split(".")[0].split("(")[0] for span in code_spans(path.read_text()))
    named = {span for span in spans if re.fullmatch(r"[A-Z][A-Za-z_]*[a-z]\w*|[A-Z]+_[A-Z_]+", span)}
    missing = [
        name
        for name in named - NOT_OURS
        if not re.search(rf"^\s*class {name}\b|^{name}\b.*=", SOURCES, flags=re.MULTILINE)
        and not name.startswith(("DIPTYCH_", "XDG_", "TORCH"))
        and not name.endswith("Exception")  # of the Bedrock service
    ]
    assert sorted(missing) == []


@documents
def test_fields_and_functions_of_named_classes_exist(path: Path) -> None:
    spans = code_spans(path.read_text())
    named = {span for span in spans if re.fullmatch(r"[A-Z]\w+\.[a-z_]+", span)}
    missing = []
    for owner, member in (name.split(".") for name in named):
        body = re.search(rf"^class {owner}\b.*?(?=^\S|\Z)", SOURCES, flags=re.DOTALL | re.MULTILINE)
        if not body or not re.search(rf"^    (async )?(def )?{member}\b", body[0], flags=re.MULTILINE):
            missing.append(f"{owner}.{member}")
    assert sorted(missing) == []


@documents
def test_options_exist(path: Path) -> None:
    spans = [span for span in commands(path.read_text()) if "pip " not in span and "make " not in span]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    assert sorted(option for option in named - {"--help"} if f'"{option}"' not in SOURCES) == []


@documents
def test_variables_exist(path: Path) -> None:
    kernels = "\n".join(file.read_text() for file in (ROOT / "src").rglob("*.cpp"))
    named = {
        span.split("=")[0] for span in code_spans(path.read_text()) if re.match(r"[A-Z]+_[A-Z_]+(=|$)", span)
    }
    everywhere = SOURCES + kernels + MAKEFILE
    assert sorted(name for name in named if name not in everywhere) == []


def test_endpoints_are_those_that_are_routed() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r"`(/[a-z][\w/{}-]*)`", text))
    routed = set(re.findall(r'Route\("(/[^"]+)"', (ROOT / "src/diptych/api/http/routes.py").read_text()))
    assert documented - {"/stop_sequence", "/openai/v1"} == routed


def test_metrics_are_those_that_are_counted() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = {name.removesuffix("_total") for name in re.findall(r"`(diptych_\w+)`", text)}
    counted = set(re.findall(r'"(diptych_\w+)"', (ROOT / "src/diptych/api/http/metrics.py").read_text()))
    assert documented == counted


def test_every_benchmark_has_its_own_target() -> None:
    named = {
        target.removeprefix("bench-").replace("-", "_") for target in make_targets() if "bench-" in target
    }
    assert named == benchmarks()


def test_readme_shows_the_examples_as_they_are() -> None:
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in shown] == ["examples/openai_chat.py", "examples/bedrock_converse.py"]
    for name, code in shown:
        assert code == (ROOT / name).read_text(), name


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", *(str(p.relative_to(ROOT)) for p in DOCUMENTS)])
def test_nothing_is_said_about_one_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"/(?:home|root|tmp|Users)/[\w/.-]+", text) == []


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert version is not None
    assert newest is not None
    assert version[1] == newest[1]

"""One deliberate bug: which text of which file is replaced by what, and which promise that breaks."""

from __future__ import annotations

from pathlib import Path

import msgspec

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "diptych"


class Mutant(msgspec.Struct, frozen=True):
    name: str
    file: str
    """Below the package."""
    old: str
    """Stands in the file exactly once."""
    new: str
    seed: str | None = None
    """A scenario of the simulator that caught it before, as `handoff-7`: tried first."""
    test: str | None = None
    """Tests that catch it where no seed is known to: tried first then."""

    def apply(self, package: Path) -> None:
        """Raises `ValueError` where the text is not there, or is there more than once."""
        path = package / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {text.count(self.old)} matches in {self.file}")
        path.write_text(text.replace(self.old, self.new))

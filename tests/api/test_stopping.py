from hypothesis import example, given
from hypothesis import strategies as st

from diptych.api.text.stopping import StopCutter, StopStrings


def reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition, checked at every character: the first stop string to be complete, the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def cut(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    cutter = StopCutter(StopStrings(stops))
    shown = [cutter.push(piece) for piece in pieces]
    shown.append(cutter.finish())
    return shown, cutter.matched


letters = st.text(alphabet="ab\u00e9", max_size=12)


@given(st.lists(letters, max_size=8), st.lists(st.text("ab\u00e9", min_size=1, max_size=5), max_size=4))
@example(["ab", "c"], ["abcd", "bc"])
def test_the_result_is_the_definition_whatever_the_pieces(pieces: list[str], stops: list[str]) -> None:
    shown, matched = cut(pieces, stops)
    assert ("".join(shown), matched) == reference("".join(pieces), stops)


@given(st.lists(letters, max_size=8), st.lists(st.text("ab\u00e9", min_size=1, max_size=5), max_size=4))
def test_only_what_may_become_a_stop_string_is_withheld(pieces: list[str], stops: list[str]) -> None:
    cutter = StopCutter(StopStrings(stops))
    seen = shown = ""
    for piece in pieces:
        seen += piece
        shown += cutter.push(piece)
        if cutter.matched is None:
            withheld = seen[len(shown) :]
            assert shown + withheld == seen
            possible = [stop[:n] for stop in stops for n in range(1, len(stop)) if seen.endswith(stop[:n])]
            assert len(withheld) == max(map(len, possible), default=0)


def test_nothing_is_shown_after_a_match() -> None:
    cutter = StopCutter(StopStrings(["END"]))
    assert cutter.push("oneEN") == "one"
    assert cutter.push("Dtwo") == ""
    assert cutter.matched == "END"
    assert cutter.push("three") == ""
    assert cutter.finish() == ""


def test_a_partial_match_that_fails_is_shown() -> None:
    cutter = StopCutter(StopStrings(["\n\nUser:"]))
    assert cutter.push("Hi\n\nUse") == "Hi"
    assert cutter.push("ful") == "\n\nUseful"

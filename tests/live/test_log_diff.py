from __future__ import annotations

from diptych.core.actions import EndRun, Send
from diptych.core.facts import ClientGone, PagesGiven, RequestArrived, StepsRan
from diptych.live.log_diff import differences, in_words

ARRIVED = RequestArrived(
    request="r", door="d", model="m", prompt_tokens=3, page_hashes=(b"\x00\xff",), tokens_max=1
)


def given(*pages: int, serial: int = 1) -> Send:
    return Send(to="a@1", fact=PagesGiven(sender="b@1", pages=pages, serial=serial))


def test_equal_values_do_not_differ() -> None:
    assert differences((given(1, 2),), (given(1, 2),), "actions") == []


def test_each_leaf_that_differs_is_named_by_its_path() -> None:
    assert differences((EndRun(run=1), given(1, 2)), (EndRun(run=1), given(1, 3, serial=2)), "actions") == [
        "actions[1].fact.pages[1]: expected 2, got 3",
        "actions[1].fact.serial: expected 1, got 2",
    ]


def test_what_is_missing_or_too_many_is_told() -> None:
    assert differences((EndRun(run=1),), (), "actions") == ["actions[0]: expected EndRun(run=1), got nothing"]
    assert differences((), (EndRun(run=1),), "actions") == ["actions[0]: expected nothing, got EndRun(run=1)"]


def test_another_kind_is_one_difference() -> None:
    assert differences(EndRun(run=1), Send(to="a", fact=ClientGone(request="r")), "it") == [
        "it: expected EndRun(run=1), got Send(to='a', fact=ClientGone(request='r'))"
    ]


def test_words_leave_out_defaults_and_shorten() -> None:
    words = (
        "RequestArrived(request='r', door='d', model='m', prompt_tokens=3, page_hashes=(00ff), tokens_max=1)"
    )
    assert in_words(ARRIVED) == words
    assert in_words(StepsRan(run=1, steps=2, duration_ns=3)) == "StepsRan(run=1, steps=2, duration_ns=3)"
    assert in_words((1, 2, 3)) == "(1, 2, 3)"
    assert in_words((1, 2, 3, 4)) == "(1, 2, 3, ... 4 in all)"

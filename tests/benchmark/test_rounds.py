"""The timing on which every published figure rests, with a clock that only the timed calls advance."""

import pytest

from levit_np.benchmark import rounds


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(rounds, "perf_counter", lambda: now[0])
    return now


def test_the_candidates_take_turns_and_the_first_call_of_a_turn_does_not_count(clock):
    order, turns = [], []

    def candidate(name, first, later):
        clock[0] += later if order and order[-1] == name else first  # the first call of a turn has cold caches
        order.append(name)

    calls = {"a": lambda: candidate("a", 5.0, 1.0), "b": lambda: candidate("b", 9.0, 2.0)}
    times = rounds.interleaved(calls, 2, seconds=4, progress=lambda: turns.append(len(order)))
    assert "".join(order) == "aaaaabbb" * 2 and turns == [5, 8, 13, 16]
    assert times == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_a_slow_call_counts_once_a_turn(clock):
    calls = []

    def slow():
        clock[0] += 10
        calls.append(1)

    assert rounds.interleaved({"a": slow}, 3, seconds=1) == {"a": [10.0] * 3} and len(calls) == 6


def test_a_rest_comes_before_each_turn(clock, monkeypatch):
    order = []
    monkeypatch.setattr(rounds, "sleep", order.append)
    rounds.interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 2, seconds=0, pause=0.5)
    assert order == 2 * [0.5, "a", "a", 0.5, "b", "b"]


def test_the_ratio_is_taken_within_a_round():
    # In every round the first is half as fast; in the second and third the machine is ten times slower.
    assert rounds.ratio([2.0, 20.0, 24.0], [1.0, 10.0, 12.0]) == pytest.approx(2)
    assert rounds.ratio([2.0, 20.0, 30.0], [1.0, 5.0, 10.0]) == pytest.approx(3)  # not 20 / 5

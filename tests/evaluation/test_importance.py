"""How much of a score's spread an axis explains."""

import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.importance import importance


def share(values: list, scores: list[float]) -> float:
    return importance(pd.DataFrame({"x": values, "score": scores}), ["x"], "score")["share"].item()


def test_numbers_that_were_listed_are_levels_whether_or_not_a_run_failed() -> None:
    rates = [0.001, 0.001, 0.01, 0.01, 0.1, 0.1, 1.0, 1.0]
    for left in (8, 7):
        assert share(rates[:left], rates[:left]) == 1


def test_worked_by_hand() -> None:
    # Means 2 and 5 about 3.5: between 9, within 2 + 2 = 4, eta^2 = 9 / 13; epsilon^2 = 1 - 4/13 * 3/2.
    assert share(["a", "a", "b", "b"], [1, 3, 4, 6]) == pytest.approx(1 - 4 / 13 * 3 / 2)


def test_all_and_nothing() -> None:
    assert share(["a", "a", "b", "b"], [1, 1, 2, 2]) == 1
    assert share(["a", "a", "b", "b"], [1, 2, 1, 2]) == 0
    assert np.isnan(share(["a", "a"], [1, 2])) and np.isnan(share(["a", "b"], [1, 2]))
    assert np.isnan(share(["a", "a", "b", "b"], [1, 1, 1, 1]))


def test_by_chance_it_is_near_zero_however_many_levels_there_are() -> None:
    rng = np.random.default_rng(0)
    found = [share(list(rng.integers(8, size=40)), list(rng.normal(size=40))) for _ in range(200)]
    assert np.mean(found) < 0.06  # eta^2 alone would be 7 / 39 = 0.18


def test_drawn_numbers_are_compared_in_thirds() -> None:
    rng = np.random.default_rng(0)
    rates = rng.uniform(size=60)
    runs = pd.DataFrame({"lr": rates, "seed": [0, 1] * 30, "score": rates})
    table = importance(runs, ["seed", "lr"], "score", drawn=["lr"])
    assert table["axis"].tolist() == ["lr", "seed"] and table["levels"].tolist() == [3, 2]
    assert table["share"][0] == pytest.approx(8 / 9, abs=0.05)  # of a uniform spread a ninth lies within thirds


def test_runs_without_a_score_or_without_the_axis_do_not_count() -> None:
    runs = pd.DataFrame({"mu": [0.1, 0.1, 1.0, 1.0, None, 0.1], "score": [1.0, 1.0, 2.0, 2.0, 9.0, None]})
    found = importance(runs, ["mu"], "score").iloc[0]
    assert found["runs"] == 4 and found["share"] == 1

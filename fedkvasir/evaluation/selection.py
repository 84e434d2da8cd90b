"""Which round is `best`: a named rule that cannot look at a holdout by accident."""

import pandas as pd

from fedkvasir.evaluation.protocol import headline, scores_by_center, task_of


def looked_at(rule: str) -> tuple[str, str]:
    """(split, role) of the records that rounds are scored by; under ``last`` too, where it chooses nothing."""
    return ("test", "holdout") if rule == "oracle" else ("val", "train")


def is_due(number: int, every: int, rounds: int) -> bool:
    """Is a round scored? Every so many of ``rounds``, and the last."""
    return not number % every or number == rounds


def selection_score(samples: pd.DataFrame, rule: str, metric: str | None = None) -> float:
    """The score of one round's records under a rule, uniform over centers, higher is better.

    samples: per-image records; or, reduced already, one row a center with its role, its split and ``metric``.
    ``train-val``: training centers' validation; ``oracle``: the holdouts' test sets, an upper bound and never a result.
    Raises ValueError when handed a holdout's or a test record under any rule but ``oracle``.
    """
    split, role = looked_at(rule)
    if rule == "oracle":
        samples = samples[(samples["role"] == "holdout") & (samples["split"] == "test")]
    elif (samples["role"] == "holdout").any() or (samples["split"] == "test").any():
        raise ValueError(f"selection by {rule} was handed records of a holdout or of a test set")
    if samples.empty:
        raise ValueError(f"selection by {rule} needs {split} records of {role} centers; there are none")
    if metric is not None:
        return float(samples[metric].mean())
    metric = headline(task_of(samples))
    return float(pd.Series([scores[metric] for scores in scores_by_center(samples).values()]).mean())


def best_round(scores: dict[int, float], rule: str, last: int) -> int:
    """The round with the highest score, the earliest of equals; the last round under ``last`` or without scores."""
    usable = {number: score for number, score in scores.items() if score == score}
    if rule == "last" or not usable:
        return last
    return max(usable, key=lambda number: (usable[number], -number))

"""What a comparison of methods finds: scores, pairs, ranks, fairness; in plain words and as one long table."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.comparison import ALPHA, Comparison, compare, holm, pairs_of, sentence, turned
from fedkvasir.evaluation.fairness import SCOPES, fairness
from fedkvasir.evaluation.groups import ROLES, STAYED, counts_of, tested
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import headline, is_shared, task_of
from fedkvasir.evaluation.ranking import Ranking, rank
from fedkvasir.evaluation.shared import combine
from fedkvasir.methods import SEEN, Method
from fedkvasir.report.centers import TITLES
from fedkvasir.report.tables import MINUS, bracket, p_value, three_decimals

FAIRNESS = {
    "mean": "Mean", "weighted": "Weighted", "worst": "Worst", "second_worst": "Second worst",
    "percentile_10": "10th percentile", "sd": "SD", "range": "Range",
}  # fmt: skip
"""Of :func:`~fedkvasir.evaluation.fairness.fairness`, and their titles."""
LONG = (
    "quantity", "scope", "center", "method", "against", "runs", "value", "low", "high", "groups", "median", "wins",
    "ties", "losses", "rank_biserial", "p", "p_holm", "note",
)  # fmt: skip


ENOUGH_SEEDS = 5
ONE_SEED = "one seed; what another would change is in no interval and in no test"
FEW_SEEDS = "{} seeds: the intervals allow for others, and are wide as there are so few; the tests are about these"


@dataclass(frozen=True)
class Findings:
    """What a comparison of methods found; every number and note as the statistics give them."""

    methods: Sequence[Method]
    metric: str
    """The headline metric's title."""
    scopes: tuple[str, ...]
    """Whose test images the tests are about: seen, unseen or both."""
    scores: dict[str, pd.DataFrame]
    """Method -> :func:`~fedkvasir.evaluation.intervals.intervals`."""
    fairness: dict[str, pd.DataFrame]
    """Method -> :func:`~fedkvasir.evaluation.fairness.fairness`."""
    pairs: tuple[Comparison, ...]
    rankings: dict[str, Ranking]
    """Scope -> ranks, where there are three methods or more."""
    unlike: tuple[str, ...]
    """Centers of which not all methods were tested on the same images."""
    missing: tuple[str, ...] = ()
    """What could not be computed, and why."""

    @property
    def alarms(self) -> tuple[str, ...]:
        """What makes a method no result at all."""
        texts = []
        for method in self.methods:
            plans = [run.plan for run in method.runs]
            if any(plan.scenario.evaluation.select == "oracle" for plan in plans):
                texts.append(f"{method.name} is an upper bound, not a result: its rounds were chosen by the holdout")
            if leak := next((text for plan in plans for text in plan.leaks), None):
                texts.append(f"{method.name}: test and training data overlap: {leak}")
        return tuple(texts)

    @property
    def rendered(self) -> bool:
        """No picture of a patient in any run."""
        return all(run.plan.rendered for method in self.methods for run in method.runs)

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Overlaps of test and training data that could not be looked for; each once."""
        return tuple(
            dict.fromkeys(text for method in self.methods for run in method.runs for text in run.plan.unchecked)
        )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What has to be said beside the intervals of the scores."""
        of: dict[str, list[str]] = {}
        for name, table in self.scores.items():
            for text in filter(None, table["warning"].iloc[-1].split("; ")):
                of.setdefault(text, []).append(name)
        texts = [text if len(own) == len(self.scores) else f"{', '.join(own)}: {text}" for text, own in of.items()]
        for seeds in range(1, ENOUGH_SEEDS):
            if names := [method.name for method in self.methods if len(method.seeds) == seeds]:
                texts.append(f"{', '.join(names)}: {FEW_SEEDS.format(seeds) if seeds > 1 else ONE_SEED}")
        return tuple(texts)

    @property
    def other_images(self) -> str:
        """What has to be said beside the scores where they are not of the same images; nothing where they are."""
        if not self.unlike:
            return ""
        own = "a score is of the method's own, a difference of those in common"
        return f"of {', '.join(self.unlike)} are not the same for all methods: {own}"

    @property
    def of_one_seed(self) -> bool:
        """Is there a method whose differences from others another seed might turn?"""
        return len(self.methods) > 1 and any(len(method.seeds) == 1 for method in self.methods)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every pair in plain words, without its notes."""
        said = (sentence(replace(pair, notes=())) for pair in self.pairs)
        return tuple(re.sub(r"(?<=[ \[])-(?=\d)", MINUS, text) for text in said)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the tests leave out, and what has to be said beside them; each once."""
        told: dict[str, list[str]] = {}
        for pair in self.pairs:
            for note in pair.notes:
                told.setdefault(note, []).append(f"{pair.first} and {pair.second}")
        for ranking in self.rankings.values():
            # The first note of ranks that are not tested says why; that stands in their sentence.
            for note in ranking.notes[math.isnan(ranking.friedman_p) :]:
                told.setdefault(note, []).append("ranks")
        everywhere = len(self.pairs) == 1
        return tuple(note if everywhere or len(by) > 1 else f"{by[0]}: {note}" for note, by in told.items())


def find(methods: Sequence[Method], scope: str = "unseen", reference: str | None = None) -> Findings:
    """Compare methods on the test images of ``seen`` or ``unseen`` centers, or of both (``all``).

    Every method against ``reference``, or every pair; Holm is over all of them, both scopes together. Raises UserError
    as :func:`~fedkvasir.evaluation.comparison.compare`, and where a method was tested at no center of ``scope``.
    """
    if scope not in SCOPES:
        raise UserError(f"--scope {scope}: use {', '.join(SCOPES)}")
    runs = {method.name: method.samples for method in methods}
    records = tested(runs)
    scopes = _scopes({name: set(tables[0]["role"]) for name, tables in records.items()}, scope)
    stayed = any(is_shared(table) for tables in runs.values() for table in tables)
    missing: list[str] = []
    if stayed:
        made, lacking = zip(*(_made_at_hospitals(methods, own, reference) for own in scopes), strict=True)
        pairs, missing = [*chain(*made)], [*chain(*lacking), f"ranks, the 10th percentile of images: {STAYED}"]
    else:
        pairs = [pair for own in scopes for pair in compare(runs, own, reference)]
    adjusted = holm([pair.p for pair in pairs])
    return Findings(
        methods,
        TITLES[headline(task_of(methods[0].samples[0]))],
        scopes,
        {name: intervals(tables) for name, tables in runs.items()},
        {name: fairness(tables) for name, tables in runs.items()},
        tuple(replace(pair, p_holm=float(p)) for pair, p in zip(pairs, adjusted, strict=True)),
        {own: rank(runs, own) for own in scopes} if len(methods) > 2 and not stayed else {},
        _unlike([tables[0] for tables in records.values()]),
        tuple(missing),
    )


def _unlike(tables: Sequence[pd.DataFrame]) -> tuple[str, ...]:
    """Centers that do not have the same test images in all tables; of shared records, not as many."""
    held = [counts_of(table) if is_shared(table) else _images(table) for table in tables]
    places = dict.fromkeys(chain.from_iterable(held))
    return tuple(sorted({center for role, center in places if len({own.get((role, center)) for own in held}) > 1}))


def _images(records: pd.DataFrame) -> dict[tuple[str, str], frozenset[str]]:
    """(role, center) -> its test images."""
    places = records.groupby(["role", "center"])["sample"]
    return {(str(role), str(center)): frozenset(own) for (role, center), own in places}


def _made_at_hospitals(
    methods: Sequence[Method], scope: str, reference: str | None
) -> tuple[list[Comparison], list[str]]:
    """Comparisons out of what hospitals made of their own records (paired.parquet), and what there is not."""
    pairs, missing, named = list[Comparison](), list[str](), {method.name: method for method in methods}
    for first, second in pairs_of([*named], reference):
        runs = min(len(named[name].seeds) for name in (first, second))
        try:
            if len(parts := _parts(named[first], named[second], scope)):
                pairs.append(combine(parts, first, second, scope, runs))
            elif len(parts := _parts(named[second], named[first], scope)):
                pairs.append(turned(combine(parts, second, first, scope, runs)))
            else:
                where = f"not all hospitals of {scope} centers have compared these runs"
                missing.append(f"{first} against {second}: {where}, and {STAYED}")
        except UserError as error:
            missing.append(str(error))
    return pairs, missing


def _parts(first: Method, second: Method, scope: str) -> pd.DataFrame:
    """Of every hospital of the scope; without rows where one is lacking."""
    made = pd.concat([run.paired for run in dict.fromkeys(first.runs + second.runs)], ignore_index=True)
    if made.empty:
        return made
    own = made[(made["first"] == first.key) & (made["second"] == second.key) & (made["role"] == ROLES[scope])]
    wanted = [
        {name.removesuffix(SEEN) for name, of in method.scopes.items() if of == scope} for method in (first, second)
    ]
    return own if wanted[0] & wanted[1] == {*own["center"]} else own.iloc[:0]


def _scopes(roles: Mapping[str, set[str]], scope: str) -> tuple[str, ...]:
    wanted = tuple(own for own in ROLES if SCOPES[own][0] in SCOPES[scope])
    there = tuple(own for own in wanted if all(ROLES[own] in held for held in roles.values()))
    if not there:
        without = ", ".join(name for name, held in roles.items() if not held & set(SCOPES[scope]))
        other = next((own for own, role in ROLES.items() if all(role in held for held in roles.values())), "")
        instead = f"use --scope {other}" if other else "compare runs that were tested at the same centers"
        raise UserError(f"no test image of {scope} centers in {without or 'all of them'}: {instead}")
    return there


# ---- in words


def ranking_sentence(scope: str, ranking: Ranking) -> str:
    """What Friedman's test and the critical difference say, in plain words."""
    where = f"on {scope} centers"
    if math.isnan(ranking.friedman_p):
        return f"Ranks {where}: {ranking.notes[0]}"
    p = "p < 0.001" if ranking.friedman_p < 0.001 else f"p = {p_value(ranking.friedman_p)}"
    test = f"Friedman's test over {ranking.groups} groups by {ranking.metric}, {p}"
    if ranking.friedman_p >= ALPHA:
        return f"Ranks {where}: no difference shown between the methods ({test})"
    # The seeds are in no rank: methods that are equal but for these differ as well.
    told = f"with these seeds not all methods do equally well ({test})"
    told += f"; average ranks {ranking.critical_difference:.2f} apart differ"
    if len(ranking.ranks) in map(len, ranking.cliques):
        return f"Ranks {where}: {told}; which ones differ is not shown"
    joined = "; ".join(", ".join(clique) for clique in ranking.cliques)
    return f"Ranks {where}: {told}" + (f"; not shown to differ: {joined}" if joined else "")


def is_shown(pair: Comparison) -> bool:
    """A difference, by the test after Holm and by the interval of the mean, both in one direction."""
    return pair.p_holm < ALPHA and (pair.low > 0 < pair.rank_biserial or pair.high < 0 > pair.rank_biserial)


def answer(findings: Findings) -> str:
    """Which method does best on unseen centers, and what it is shown to be better than; on seen ones without any.

    Two methods or more: the sentence of the leader's comparison with the next is that of the statistics.
    """
    scope = findings.scopes[-1]
    means = {name: own[own["scope"] == scope].iloc[0] for name, own in findings.scores.items()}
    scored = [name for name, mean in means.items() if math.isfinite(mean["score"])]
    order = sorted(scored, key=lambda name: -means[name]["score"])
    nothing = "; another seed might turn this" if findings.of_one_seed else ""
    nothing += "" if scope == "unseen" else "; no hospital was held out, so this says nothing about others"
    if not order:
        return f"No test image of {scope} centers can be scored"
    leader, *others = order
    best = f"{three_decimals(means[leader]['score'])} {bracket(means[leader]['low'], means[leader]['high'])}".rstrip()
    if not others:
        alone = "there is no other method to compare it with"
        return f"{findings.metric} {best} on {scope} centers with {leader}; {alone}{nothing}"
    said, better = {}, []
    for pair, words in zip(findings.pairs, findings.sentences, strict=True):
        if pair.scope == scope and leader in (pair.first, pair.second):
            other = pair.second if pair.first == leader else pair.first
            said[other] = words
            if is_shown(pair) and pair.runs > 1 and (pair.low > 0) == (pair.first == leader):
                better.append(other)
    lead = f"{leader} has the highest {findings.metric} on {scope} centers, {best}"
    if not all(other in said for other in others):
        return f"{lead}; whether that is chance was not tested against every other method{nothing}"
    if len(others) == 1:
        only = said[others[0]]
        return f"{only if only.startswith(tuple(order)) else only[0].upper() + only[1:]}{nothing}"
    rest = [name for name in others if name not in better]
    if not rest:
        shown = "and is shown to be better than every other method"
    elif better:
        shown = f"and is shown to be better than {in_list(better)}, not than {in_list(rest, 'or')}"
    else:
        shown = "but is not shown to be better than any other method"
    return f"{lead}, {shown}. Against the next: {said[others[0]]}{nothing}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {in_list(seeds)}"


def in_list(names: Sequence[object], last: str = "and") -> str:
    texts = list(map(str, names))
    return f"{', '.join(texts[:-1])} {last} {texts[-1]}" if len(texts) > 1 else "".join(texts)


# ---- as one table


def long_csv(findings: Findings) -> str:
    """Every number of the comparison, one a row: what it is (``quantity``), of whom, against whom, with its interval.

    quantity: score, gap, difference, rank, friedman_p, critical_difference, and the columns of
    :func:`~fedkvasir.evaluation.fairness.fairness`.
    """
    table = pd.DataFrame(_long(findings), columns=list(LONG)).assign(metric=findings.metric)
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def _long(findings: Findings) -> Iterator[dict[str, Any]]:
    for method in findings.methods:
        for row in findings.scores[method.name].to_dict("records"):
            scope = method.scopes.get(row["center"], row["scope"])
            yield {
                "quantity": "gap" if scope == "gap" else "score", "scope": "" if scope == "gap" else scope,
                "center": row["center"], "method": method.name, "runs": row["runs"], "value": row["score"],
                "low": row["low"], "high": row["high"], "groups": row["groups"], "note": row["warning"],
            }  # fmt: skip
    for pair in findings.pairs:
        yield {
            "quantity": "difference", "scope": pair.scope, "method": pair.first, "against": pair.second,
            "runs": pair.runs, "value": pair.difference, "low": pair.low, "high": pair.high, "groups": pair.groups,
            "median": pair.median, "wins": pair.wins, "ties": pair.ties, "losses": pair.losses,
            "rank_biserial": pair.rank_biserial, "p": pair.p, "p_holm": pair.p_holm, "note": "; ".join(pair.notes),
        }  # fmt: skip
    for scope, ranking in findings.rankings.items():
        own = {"scope": scope, "groups": ranking.groups, "note": "; ".join(ranking.notes)}
        for name, average in ranking.ranks.items():
            yield own | {"quantity": "rank", "method": name, "value": average}
        for name in ("friedman_p", "critical_difference"):
            yield own | {"quantity": name, "value": getattr(ranking, name)}
    for name, found in findings.fairness.items():
        for row in found[found["centers"] > 0].to_dict("records"):
            for quantity in FAIRNESS:
                center = row.get(f"{quantity}_center", "")
                if pd.notna(row[quantity]):
                    yield {
                        "quantity": quantity, "scope": row["scope"], "center": center, "method": name,
                        "value": row[quantity],
                    }  # fmt: skip

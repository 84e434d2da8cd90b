"""A protocol as the runs that it asks for."""

from pathlib import Path

import numpy as np
import pytest

from fedkvasir.console import Screen
from fedkvasir.errors import UserError
from fedkvasir.names import spelled_out
from fedkvasir.points import Point, cautions, cells
from fedkvasir.scenario import load
from fedkvasir.sweep import tried
from fedkvasir.training import learning_rate


def points(scenario: Path, protocol: str, *overrides: str) -> list[Point]:
    return cells(load(scenario, (f"protocol={protocol}", *overrides)))


def holdouts(point: Point) -> set[str]:
    return {name for name, center in point.scenario.data.centers.items() if center.role == "holdout"}


def test_holdout_takes_the_scenario_as_it_is(tiny: Path) -> None:
    (only,) = points(tiny, "{kind: holdout, seeds: [7, 8]}")
    assert (only.method, only.holdout, only.hospital, only.seed) == ("fedavg", "edinburgh", "", 7)
    expected = spelled_out(load(tiny, ("seed=7",)))
    assert only.scenario == expected  # so a run that was made by hand is the study's run


def test_each_center_is_left_out_once_and_trains_otherwise(tiny: Path) -> None:
    found = points(tiny, "{kind: leave-one-center-out}")
    assert [point.holdout for point in found] == ["alta", "bergen", "cadiz", "edinburgh"]
    for point in found:
        assert holdouts(point) == {point.holdout}


def test_a_center_that_is_left_out_is_not_cut_into_hospitals(tiny: Path) -> None:
    cut = "data.centers.alta.partition={kind: iid, parts: 2}"
    found = points(tiny, "{kind: leave-one-center-out, baselines: [local]}", cut)
    first, *others = [point for point in found if point.method == "fedavg"]
    assert first.holdout == "alta" and first.scenario.data.centers["alta"].partition is None
    assert all("alta-2" in other.scenario.data.hospitals for other in others)
    alone = [point.hospital for point in found if point.holdout == "bergen" and point.hospital]
    assert alone == ["alta-1", "alta-2", "cadiz", "edinburgh"]


def test_who_is_left_out_has_nothing_to_fail_at(tiny: Path) -> None:
    cut = "data.centers.alta.partition={kind: iid, parts: 2}"
    faults = "faults=[{kind: dropout, center: alta-2}, {kind: dropout, center: bergen}, {kind: dropout}]"
    found = points(tiny, "{kind: leave-one-center-out}", cut, faults)
    struck = {point.holdout: [fault.center for fault in point.scenario.faults] for point in found}
    assert struck["alta"] == ["bergen", None] and struck["bergen"] == ["alta-2", None]
    assert struck["cadiz"] == ["alta-2", "bergen", None]


def test_cross_site_trains_at_each_alone_and_together(tiny: Path) -> None:
    found = points(tiny, "{kind: cross-site, baselines: [pooled]}")
    assert [(p.method, p.hospital) for p in found] == [
        ("fedavg", ""), ("pooled", ""), ("local", "alta"), ("local", "bergen"), ("local", "cadiz"),
    ]  # fmt: skip
    assert [p.scenario.federation.train for p in found] == ["each", "pooled", "alta", "bergen", "cadiz"]


def test_a_model_that_goes_round_takes_a_round_at_every_hospital(tiny: Path) -> None:
    (_, cyclic) = points(tiny, "{kind: holdout, baselines: [cyclic]}", "evaluation.every=2")
    assert cyclic.scenario.federation.rounds == 9 and cyclic.scenario.evaluation.every == 6


def test_a_model_that_goes_round_takes_as_many_steps_as_an_algorithm_too(tiny: Path) -> None:
    as_baseline = points(tiny, "{kind: leave-one-center-out, baselines: [cyclic]}")
    as_algorithm = points(tiny, "{kind: leave-one-center-out, algorithms: [fedavg, cyclic]}")
    assert [point.method for point in as_algorithm] == ["fedavg", "cyclic"] * 4
    assert [point.scenario for point in as_algorithm] == [point.scenario for point in as_baseline]
    (own,) = points(tiny, "{kind: holdout}", "algorithm=cyclic")
    assert own.scenario == as_baseline[-1].scenario
    (pooled,) = points(tiny, "{kind: holdout}", "algorithm=cyclic", "federation.train=pooled")
    assert pooled.scenario.federation.rounds == 3  # there is one place to go to


def test_a_model_that_goes_round_lowers_its_learning_rate_when_the_federation_does(tiny: Path) -> None:
    step = "training.schedule={name: step, every: 2, factor: 0.1}"
    rates = []
    for point in points(tiny, "{kind: holdout, baselines: [cyclic]}", step, "federation.rounds=5", "training.epochs=2"):
        training, rounds = point.scenario.training, point.scenario.federation.rounds
        total = rounds * training.epochs
        rates.append([learning_rate(training, epoch, total) for epoch in range(total)])
    federation, cyclic = rates
    assert len(set(cyclic)) == len(set(federation)) == 5
    assert np.mean(cyclic) == pytest.approx(np.mean(federation))


@pytest.mark.parametrize(
    ("protocol", "fault", "quorum", "others"),
    [
        ("baselines: [pooled, local]", "{kind: dropout, center: bergen}", 0.6, "pooled, local"),
        ("algorithms: [fedavg, cyclic]", "{kind: corrupt, how: nan}", 0.6, "cyclic"),
        ("algorithms: [fedavg, fedprox]", "{kind: dropout}", 0.6, ""),  # the same are struck in the same rounds
        ("baselines: [pooled, local]", "{kind: dropout}", 1.0, ""),  # all are asked again
        ("baselines: [pooled, local]", "{kind: corrupt, how: scaled, factor: 2}", 0.6, ""),
        ("baselines: [pooled, local]", "{kind: wrong-labels, share: 0.5}", 0.6, ""),
    ],
)
def test_where_only_the_federation_does_without_who_fails_the_budget_is_said_not_to_be_equal(
    tiny: Path, capsys: pytest.CaptureFixture[str], protocol: str, fault: str, quorum: float, others: str
) -> None:
    words = f"protocol={{kind: holdout, {protocol}}}", f"faults=[{fault}]", f"federation.quorum={quorum}"
    found = cautions((point.method, point.scenario) for point in cells(load(tiny, words)))
    assert len(found) == bool(others) and all(f"; {others}: asked again, or not struck" in text for text in found)
    Screen().cells(load(tiny, words))
    assert ("goes on without a hospital that fails" in capsys.readouterr().out) == bool(others)


@pytest.mark.parametrize(
    ("fusions", "others"), [("[mean, weighted, learned]", "mean and weighted"), ("[mean, weighted]", "")]
)
def test_a_sweep_over_fusions_says_that_they_are_validated_on_different_images(
    tiny: Path, fusions: str, others: str
) -> None:
    model = "model={name: ensemble, encoder: tu-lcnet_050, members: [unet, fpn]}"
    study = load(tiny, (model, f"protocol={{kind: holdout, tune: {{model.fusion: {fusions}}}}}"))
    found = cautions((point.method, point.scenario) for _, points in tried(study) for point in points)
    assert len(found) == bool(others)
    assert all(text.startswith("model.fusion: ") and text.endswith(f"of {others} all") for text in found)


def test_external_centers_are_tested_in_every_arm_and_never_trained(tiny: Path) -> None:
    found = points(tiny, "{kind: leave-one-center-out, external: [cadiz, cvc-clinicdb]}")
    assert [point.holdout for point in found] == ["alta", "bergen", "edinburgh"]
    for point in found:
        assert holdouts(point) == {point.holdout, "cadiz", "cvc-clinicdb"}
        assert point.scenario.data.centers["cvc-clinicdb"].dataset == "cvc-clinicdb"


def test_algorithms_of_one_name_are_told_apart_by_their_parameters(tiny: Path) -> None:
    found = points(tiny, "{kind: holdout, algorithms: [fedavg, {name: fedprox, mu: 0.1}, {name: fedprox, mu: 1}]}")
    assert [point.method for point in found] == ["fedavg", "fedprox mu=0.1", "fedprox mu=1"]
    assert found[2].scenario.algorithm.parameters == {"mu": 1}


def test_baselines_are_plain_whatever_the_algorithm(tiny: Path) -> None:
    baselines = "{kind: holdout, algorithms: [fedbn], baselines: [pooled, local, ensemble-of-locals]}"
    fedbn, *others = points(tiny, baselines)
    assert fedbn.scenario.algorithm.name == "fedbn"
    assert {other.scenario.algorithm.name for other in others} == {"fedavg"}
    # The members are there when the ensemble of them is formed.
    assert [other.method for other in others] == ["pooled", "local", "local", "local", "ensemble-of-locals"]


def test_every_method_is_tuned_over_the_same_settings(tiny: Path) -> None:
    protocol = "{kind: holdout, baselines: [pooled], tune: {training.lr: [0.1, 0.01], training.epochs: [1, 2]}}"
    scenario = load(tiny, (f"protocol={protocol}",))
    assert scenario.protocol is not None
    for cell in cells(scenario):
        tried = [point.scenario.training for point in cell.settings(scenario.protocol.tune)]
        assert [(own.lr, own.epochs) for own in tried] == [(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2)]


def test_what_is_set_for_one_optimizer_does_not_go_with_another_that_is_tried(tiny: Path) -> None:
    """Momentum is no setting of Adam's, and no reason not to compare it with SGD."""
    tuned = "{kind: holdout, tune: {training.optimizer: [sgd, adam], training.schedule.name: [step, cosine]}}"
    keys = ("training.momentum=0.9", "training.schedule={name: step, every: 2, times: 1}")
    scenario = load(tiny, (f"protocol={tuned}", *keys))
    assert scenario.protocol is not None
    (cell,) = cells(scenario)
    tried = [point.scenario.training for point in cell.settings(scenario.protocol.tune)]
    assert [(own.optimizer, own.momentum) for own in tried[::2]] == [("sgd", 0.9), ("adam", 0.0)]
    schedules = [own.schedule for own in tried if own.schedule]
    assert [(own.name, own.every, own.times) for own in schedules] == [("step", 2, 1), ("cosine", 50, None)] * 2
    both = "{kind: holdout, tune: {training.optimizer: [sgd, adam], training.momentum: [0, 0.9]}}"
    with pytest.raises(UserError, match=r"training\.momentum = 0\.9 means nothing under training\.optimizer = adam"):
        cells(load(tiny, (f"protocol={both}",)))


def test_what_counts_rounds_is_stretched_after_it_is_tuned(tiny: Path) -> None:
    tuned = "{kind: holdout, baselines: [cyclic], tune: {federation.rounds: [3, 6], training.schedule.every: [2]}}"
    step = "training.schedule={name: step, every: 1, factor: 0.1}"
    scenario = load(tiny, (f"protocol={tuned}", step))
    assert scenario.protocol is not None
    found = {
        cell.method: [
            (own.federation.rounds, own.evaluation.every, own.training.schedule.every)
            for own in (point.scenario for point in cell.settings(scenario.protocol.tune))
            if own.training.schedule
        ]
        for cell in cells(scenario)
    }
    assert found == {"fedavg": [(3, 1, 2), (6, 1, 2)], "cyclic": [(9, 3, 6), (18, 3, 6)]}


def test_a_fault_of_a_round_strikes_a_model_that_goes_round_in_the_same_part_of_its_way(tiny: Path) -> None:
    (federated, cyclic) = points(tiny, "{kind: holdout, baselines: [cyclic]}", "faults=[{kind: dropout, rounds: [2]}]")
    assert federated.scenario.faults[0].rounds == (2,) and cyclic.scenario.faults[0].rounds == (4, 5, 6)


def test_a_setting_after_another_is_that_of_the_scenario(tiny: Path) -> None:
    """What an optimiser has no use for is set back with it, and comes again with the one that has."""
    (cell,) = points(tiny, "{kind: holdout}", "training.optimizer=sgd", "training.momentum=0.9")
    tuned = cell.at({"training.optimizer": "adam"}).seeded(5)
    assert tuned.scenario.training.momentum == 0
    assert tuned.at({"training.optimizer": "sgd"}).scenario == cell.seeded(5).scenario


def test_baselines_keep_no_layers_local(tiny: Path) -> None:
    baselines = "{kind: holdout, baselines: [pooled, local, cyclic]}"
    federated, *others = points(tiny, baselines, "federation.buffers=local")
    assert federated.scenario.federation.buffers == "local"
    assert {other.scenario.federation.buffers for other in others} == {"average"}


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ("{kind: loco}", "'loco'"),
        ("{kind: holdout, algorithms: [fedavk]}", "did you mean 'fedavg'"),
        ("{kind: holdout, algorithms: [fedavg, fedavg]}", "named twice"),
        ("{kind: holdout, algorithms: [fedprox, {name: fedprox, mu: 0.01}]}", "perhaps with a default spelled out"),
        ("{kind: holdout, tune: {algorithm: [fedprox]}}", "algorithm is the method and no setting of it"),
        ("{kind: holdout, tune: {algorithm.name: [fedprox]}}", "algorithm.name is the method and no setting of it"),
        ("{kind: holdout, seeds: []}", "protocol.seeds"),
        ("{kind: holdout, tune: {training.lrr: [1]}}", "training.lrr"),
        ("{kind: holdout, tune: {training.lr: [0.1]}, select: last}", "set protocol.select=train-val"),
        ("{kind: leave-one-center-out, external: [alta, bergen, cadiz]}", "two centers or more"),
        ("{kind: holdout, external: [nowhere]}", "nowhere"),
        ("{kind: holdout, algorithms: [{name: fedprox, mu: [0.01, 0.1]}]}", "should be a valid number"),
        ("{kind: holdout, algorithms: [fedavg, cyclic], baselines: [cyclic]}", "cyclic is an algorithm and a baseline"),
        ("{kind: holdout, tune: {training.batch_size: [4, auto]}}", "would find another number for every method"),
        ("{kind: holdout, baselines: [pooled], tune: {federation.fraction: [0.5]}}", "set federation.fraction=1.0"),
    ],
)
def test_a_protocol_that_cannot_be_carried_out_is_refused_before_anything_is_read(
    tiny: Path, protocol: str, says: str
) -> None:
    with pytest.raises(UserError) as refused:
        points(tiny, protocol)
    assert says in str(refused.value)


def test_holdout_needs_one(tiny: Path) -> None:
    with pytest.raises(UserError, match="needs a center of role: holdout"):
        points(tiny, "{kind: holdout}", "data.centers.edinburgh.role=train")


def test_baselines_need_every_hospital_in_every_round(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"federation\.fraction=1\.0"):
        points(tiny, "{kind: holdout, baselines: [pooled]}", "federation.fraction=0.5")
    with pytest.raises(UserError, match=r"cross-site trains hospitals alone, with as many steps"):
        points(tiny, "{kind: cross-site}", "federation.fraction=0.5")
    with pytest.raises(UserError, match=r"cyclic takes as many steps as all hospitals"):
        points(tiny, "{kind: holdout, algorithms: [fedavg, cyclic]}", "federation.fraction=0.5")


def test_selection_by_the_protocol_stands_above_that_of_the_scenario(tiny: Path) -> None:
    (only,) = points(tiny, "{kind: holdout, select: last}")
    assert only.scenario.evaluation.select == "last"

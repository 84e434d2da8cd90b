"""A plan made from what hospitals say of themselves is the plan made from their images, as far as it can be."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedkvasir.errors import UserError
from fedkvasir.plan import UNCHECKED, Plan, make_plan
from fedkvasir.scenario import LOCALS, Scenario, load, parse, variant
from fedkvasir.sites.federation import SiteKit
from fedkvasir.sites.plan import SPLITS, facts_of, plan_of_sites, refuse_unfit, too_few
from tests.conftest import Miniatures

SALT = "0123456789abcdef"
MODEL = {"name": "unet", "encoder": "tu-lcnet_050", "decoder_channels": [16, 8, 8, 4, 4]}


def told(scenario: Scenario, hospitals: Iterable[str], data: Path | None = None, salt: str = SALT) -> dict[str, Any]:
    """What every hospital says, made from its own images alone, as it comes over the network."""
    plans = {name: make_plan(scenario, data, only=name) for name in hospitals}
    return json.loads(json.dumps({name: facts_of(plan, salt) for name, plan in plans.items()}))


def same(scenario: Scenario, data: Path | None = None) -> tuple[Plan, Plan]:
    """The plan of the hospitals' facts and that of all images, which agree in what names and checks a run."""
    together = make_plan(scenario, data)
    plan = plan_of_sites(scenario, told(scenario, together.centers.index, data))
    assert plan.hash == together.hash and plan.name == together.name
    assert plan.data_sha256 == together.data_sha256
    assert plan.classes == together.classes and plan.class_counts == together.class_counts
    assert plan.training_centers == together.training_centers
    pd.testing.assert_frame_equal(plan.centers, together.centers)
    assert (plan.device, plan.precision, plan.rendered) == (together.device, together.precision, together.rendered)
    for center in plan.training_centers:
        assert plan.steps_per_round(center) == together.steps_per_round(center)
    return plan, together


Hospital = dict[str, dict[str, object]]
Hospitals = Callable[[dict[str, Hospital]], Path]


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    """``hospitals({"oslo": {"a.png": {"label": "polyp", "group": "patient-1", "picture": 7}}})`` writes folders of
    pictures, equal where their number is."""

    def write(holdings: dict[str, Hospital]) -> Path:
        for hospital, own in holdings.items():
            (tmp_path / hospital).mkdir()
            rows = []
            for file, facts in own.items():
                rng = np.random.default_rng(int(str(facts["picture"])))
                small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                small.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / hospital / file)
                rows.append({"image": file, "label": facts["label"], "group": facts["group"]})
            pd.DataFrame(rows).to_csv(tmp_path / hospital / "samples.csv", index=False)
        return tmp_path

    return write


def labelled(hospital: str, labels: Iterable[str], first: int) -> Hospital:
    """Six patients with two pictures of every label."""
    return {
        f"secret-{hospital}-{label}-{number}.png": {
            "label": label,
            "group": f"surname-{hospital}-{number // 2}",
            "picture": first + 100 * index + number,
        }
        for index, label in enumerate(labels)
        for number in range(12)
    }


def of_folders(root: Path, roles: dict[str, str], **keys: Any) -> Scenario:
    """A classification scenario over folders beside each other."""
    data: dict[str, Any] = {
        "image_size": 32,
        "centers": {
            name: {"dataset": "folder", "role": role, "root": str(root / name)} for name, role in roles.items()
        },
    }
    raw = {"name": "folders", "task": "classification", "model": {"name": "lcnet_050"}, "data": data | keys}
    return parse({**raw, "training": {"loss": "cross-entropy"}}, "test")


@pytest.mark.parametrize("train", ["each", "bergen", "ensemble-of-locals"])
def test_rendered_hospitals_and_a_holdout(tiny: Path, train: str) -> None:
    plan, together = same(load(tiny, (f"federation.train={train}",)))
    assert plan.members.keys() == together.members.keys()
    assert plan.warnings == (
        UNCHECKED + "near-duplicates at different hospitals were not looked for: their pictures stay where they are",
    )


def test_classes_that_some_hospitals_do_not_have(hospitals: Hospitals) -> None:
    """All classes are known to all in the end, in the order that the images themselves would give."""
    root = hospitals(
        {
            "oslo": labelled("oslo", ["polyp", "cecum"], 1000),
            "bergen": labelled("bergen", ["ulcer", "polyp"], 2000),
            "tromso": labelled("tromso", ["barretts", "cecum"], 3000),
        }
    )
    scenario = of_folders(root, {"oslo": "train", "bergen": "train", "tromso": "holdout"})
    plan, together = same(scenario)
    assert plan.classes == ("barretts", "cecum", "polyp", "ulcer") and plan.class_counts["barretts"] == 0
    own = make_plan(scenario, only="bergen")
    assert own.classes == ("polyp", "ulcer")
    joined = own.joined(plan.classes, plan.class_counts)
    rows = together.samples[together.samples["center"] == "bergen"].reset_index(drop=True)
    pd.testing.assert_frame_equal(joined.samples[[*rows.columns]], rows)
    assert joined.class_counts == together.class_counts


def test_classes_that_hospitals_spell_in_two_ways_are_told(hospitals: Hospitals) -> None:
    labels = {"oslo": ["Polyp", "cecum"], "bergen": ["cecum", "polyp"]}
    root = hospitals({name: labelled(name, own, 1000 * len(name)) for name, own in labels.items()})
    plan, together = same(of_folders(root, dict.fromkeys(labels, "train")))
    assert plan.warnings[0] == together.warnings[0]
    assert plan.warnings[0].startswith("Polyp (oslo) and polyp (bergen) are different classes by their spelling alone")


def test_a_hospital_that_trains_alone_counts_its_own_classes(hospitals: Hospitals) -> None:
    labels = {"oslo": ["polyp", "cecum"], "bergen": ["ulcer", "polyp"]}
    root = hospitals({name: labelled(name, own, 1000 * len(name)) for name, own in labels.items()})
    scenario = of_folders(root, dict.fromkeys(labels, "train"))
    alone, _ = same(variant(scenario, {"federation.train": "oslo"}))
    assert alone.class_counts["ulcer"] == 0 and alone.class_counts["polyp"] > 0

    locals_ = variant(scenario, {"federation.train": "ensemble-of-locals"})
    every, _ = same(locals_)
    assert every.stage("oslo").class_counts == alone.class_counts
    own = make_plan(locals_, only="oslo").joined(every.classes, every.class_counts)
    assert own.stage("oslo").class_counts == alone.class_counts
    assert own.stage("").scenario.model == every.stage("").scenario.model


def test_a_fusion_that_is_learned_is_refused(hospitals: Hospitals) -> None:
    """It would be fitted on halves of which the coordinator knows neither weights nor classes."""
    root = hospitals({name: labelled(name, ["polyp", "cecum"], 1000 * len(name)) for name in ("oslo", "bergen")})
    scenario = of_folders(root, {"oslo": "train", "bergen": "train"})
    ensemble = variant(scenario, {"model": {"name": "ensemble", "members": ["lcnet_050", "resnet10t"]}})
    plan, together = same(ensemble)
    assert plan.stage("").weights == together.stage("").weights
    with pytest.raises(UserError, match=r"set model\.fusion=mean or model\.fusion=weighted"):
        plan_of_sites(variant(ensemble, {"model.fusion": "learned"}), told(ensemble, together.centers.index))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.centers.alta.partition={kind: iid, parts: 2}", "data.centers.alta.partition: a real hospital is one"),
        ("data.split_file=split.csv", "data.split_file names images, which stay at the hospitals"),
        ("federation.train=pooled", "pooled: images of real hospitals stay where they are"),
        ("training.batch_size=auto", "training.batch_size = auto is tried out on one machine; give a number"),
        ("resources.threads_per_center=300", "resources.threads_per_center is above 256"),
    ],
)
def test_what_is_for_simulations_alone_is_refused(tiny: Path, override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        refuse_unfit(load(tiny, (override,)))


def test_an_ensemble_of_hospitals_models_needs_two_of_them_as_in_a_simulation(tiny: Path) -> None:
    own = {name: {"dataset": "synthetic", "center": name, "val": 0.2, "test": 0.2} for name in ("alta", "edinburgh")}
    own["edinburgh"] |= {"val": 0, "test": 0, "role": "holdout"}
    scenario = variant(load(tiny), {"data.centers": own, "federation.train": LOCALS})
    for make in (make_plan, lambda scenario: plan_of_sites(scenario, told(scenario, own))):
        with pytest.raises(UserError, match=f"federation.train = {LOCALS} needs two hospitals or more"):
            make(scenario)


def test_a_hospital_with_a_fedkvasir_of_other_numbers_is_refused(tiny: Path) -> None:
    facts = told(scenario := load(tiny), ["alta", "bergen", "cadiz", "edinburgh"])
    del facts["bergen"]["numbers"]  # as before they were counted
    with pytest.raises(UserError, match="bergen has a fedkvasir that gets other numbers"):
        plan_of_sites(scenario, facts)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    for key in ("val_hashes", "versions"):  # as before they were told
        lacking = {name: own for name, own in facts["alta"].items() if name != key}
        with pytest.raises(UserError, match="alta has an older fedkvasir; install there what is installed here"):
            plan_of_sites(scenario, facts | {"alta": lacking})


def test_a_hospital_that_computes_with_something_else_is_told(tiny: Path) -> None:
    facts = told(scenario := load(tiny), ["alta", "bergen", "cadiz", "edinburgh"])
    assert not [text for text in plan_of_sites(scenario, facts).warnings if "computes with" in text]
    torch = facts["bergen"]["versions"]["torch"]
    facts["bergen"]["versions"]["torch"] = "1.0"
    (text,) = [text for text in plan_of_sites(scenario, facts).warnings if "computes with" in text]
    assert text == f"bergen computes with torch 1.0, not {torch}: the last digits of its numbers may differ"
    for lie in ({"torch": "[red]1\n"}, {"torch": 1}, ["1.0"], None):
        with pytest.raises(UserError, match="bergen tells versions that are none"):
            plan_of_sites(scenario, facts | {"bergen": facts["bergen"] | {"versions": lie}})


def test_masks_that_show_different_things_are_refused(tiny: Path) -> None:
    scenario = load(tiny)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    facts["bergen"]["classes"] = ["instrument"]
    with pytest.raises(UserError, match="masks of the hospitals do not show the same: instrument or polyp"):
        plan_of_sites(scenario, facts)


def test_a_hospital_with_too_little_is_refused_as_it_would_be_with_its_images(tiny: Path) -> None:
    scenario = load(tiny)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    facts["bergen"] |= {
        "train": 1,
        "counts": [1],
        "train_groups": 1,
        "train_hashes": facts["bergen"]["train_hashes"][:1],
    }
    with pytest.raises(UserError, match=r"bergen is left with 1 training image\(s\)"):
        plan_of_sites(scenario, facts)


def test_counts_of_classes_that_are_not_of_the_training_images_are_refused(tiny: Path) -> None:
    scenario = load(tiny)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    facts["bergen"]["counts"] = [10**7]
    with pytest.raises(UserError, match="bergen says that it holds numbers of images that cannot be"):
        plan_of_sites(scenario, facts)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_counts_that_are_not_of_the_hashes_beside_them_are_refused(tiny: Path, split: str) -> None:
    """How many a hospital trains with is how much it weighs."""
    scenario = load(tiny)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    own = facts["alta"]
    hashes, images, groups = own[f"{split}_hashes"], own[split], own[f"{split}_groups"]
    one_more = {split: images + 1} | ({"counts": [images + 1]} if split == "train" else {})
    many = {split: 10**4, f"{split}_hashes": [*hashes, *["f" * 64] * (10**4 - images)], f"{split}_groups": 10**4}
    many |= {"counts": [10**4]} if split == "train" else {}
    fewer = f"alta says that it holds {images} {split} images of {groups} groups, and tells {images - 1} hashes"
    for lie, words in (
        (
            one_more,
            f"alta says that it holds {images + 1} {split} images of {groups} groups, and tells {images} hashes",
        ),
        ({f"{split}_hashes": hashes[1:]}, fewer),
        (many, f"tells 10000 hashes of {images + 1} pictures"),
        *(
            ({f"{split}_hashes": [*hashes[1:], other]}, "of its .* images that are none")
            for other in ("f" * 63, 7, None)
        ),
    ):
        with pytest.raises(UserError, match=words):
            plan_of_sites(scenario, facts | {"alta": own | lie})


def test_a_hospital_may_have_a_picture_twice(hospitals: Hospitals) -> None:
    """Under two names; it is one group, and told as often as it is there."""
    held = {name: labelled(name, ["polyp", "cecum"], 1000 * n) for n, name in enumerate(("oslo", "bergen"), 1)}
    for files in held.values():
        files |= {f"copy-{name}": facts for name, facts in list(files.items())[:5]}
    root = hospitals(held)
    scenario = of_folders(root, {"oslo": "train", "bergen": "train"})
    facts = told(scenario, held)
    copies = [
        len(own[f"{split}_hashes"]) - len({*own[f"{split}_hashes"]}) for own in facts.values() for split in SPLITS
    ]
    assert sum(copies) == 10
    same(scenario)


# ---- the same picture at two hospitals


@pytest.fixture
def copied(hospitals: Hospitals, tmp_path: Path) -> Callable[..., Scenario]:
    """``copied("train", "test")``: oslo's first picture of one split lies in another split of bergen's or tromso's."""

    def scenario(ours: str, theirs: str, **keys: Any) -> Scenario:
        roles = {"oslo": "train", "bergen": "train", "tromso": "holdout"}
        held = {name: labelled(name, ["polyp", "cecum"], 1000 * n) for n, name in enumerate(roles, 1)}
        held["tromso"] |= labelled("tromso", ["ulcer"], 9000)
        hospitals(held)
        plain = of_folders(tmp_path, roles, **keys)
        (source, target) = (
            next(file for file in make_plan(plain, only=name).samples.query("split == @split")["sample"])
            for name, split in (("oslo", ours), ("tromso" if theirs == "test" else "bergen", theirs))
        )
        # A picture takes its place where it was, so that no hospital's own split changes.
        (tmp_path / target).write_bytes((tmp_path / source).read_bytes())
        return plain

    return scenario


@pytest.mark.parametrize("ours", ["train", "val"])
def test_a_picture_on_both_sides_is_refused_as_it_would_be_with_the_images(
    copied: Callable[..., Scenario], ours: str
) -> None:
    """Validation counts as training: a model is chosen on it."""
    scenario = copied(ours, "test")
    with pytest.raises(UserError, match="1 pictures or groups lie on both sides"):
        make_plan(scenario)
    with pytest.raises(UserError, match="1 pictures lie on both sides of train and test, at oslo and tromso; one of"):
        plan_of_sites(scenario, told(scenario, ["oslo", "bergen", "tromso"]))


@pytest.mark.parametrize(("ours", "theirs"), [("train", "val"), ("train", "train"), ("val", "val")])
def test_a_picture_that_two_hospitals_hold_is_refused_on_the_same_side_as_well(
    copied: Callable[..., Scenario], ours: str, theirs: str
) -> None:
    """One hospital's images under two names would count twice, in every mean and in the choice of a round. From the
    images themselves what another one trains on is left out of validation; here nobody can leave it out."""
    scenario = copied(ours, theirs)
    make_plan(scenario)
    with pytest.raises(UserError, match="1 pictures lie at two hospitals, bergen and oslo; one of them has to leave"):
        plan_of_sites(scenario, told(scenario, ["oslo", "bergen", "tromso"]))
    warned = variant(scenario, {"data.audit": "warn"})
    plan = plan_of_sites(warned, told(warned, ["oslo", "bergen", "tromso"]))
    assert "1 pictures lie at two hospitals, bergen and oslo" in plan.warnings


def test_one_hospitals_images_under_two_names_are_refused(tiny: Path) -> None:
    scenario = load(tiny)
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    with pytest.raises(UserError, match=r"\d pictures lie at two hospitals, alta and bergen"):
        plan_of_sites(scenario, facts | {"bergen": facts["alta"]})


def test_a_picture_on_both_sides_is_told_where_the_scenario_wants_to_run_all_the_same(
    copied: Callable[..., Scenario],
) -> None:
    scenario = copied("train", "test", audit="warn")
    plan = plan_of_sites(scenario, told(scenario, ["oslo", "bergen", "tromso"]))
    assert "LEAKAGE: 1 pictures lie on both sides of train and test, at oslo and tromso" in plan.warnings
    assert plan.hash == make_plan(scenario).hash


def test_what_trained_weights_is_not_looked_for_where_pictures_stay_at_hospitals_and_it_is_said(
    tiny: Path, tmp_path: Path
) -> None:
    facts = told(load(tiny), ["alta", "bergen", "cadiz", "edinburgh"])
    run = tmp_path / "run"
    plan_of_sites(load(tiny), facts).save(run)
    (run / "best.safetensors").touch()
    later = load(tiny, (f"model.weights={run / 'best.safetensors'}",))
    assert f"{UNCHECKED}model.weights: whether what trained {run} is tested here was not looked for" in (
        plan_of_sites(later, facts).warnings
    )
    assert make_plan(later).warnings == (
        f"{UNCHECKED}model.weights: what {run} was trained on is not known; it may be tested here",
    )


def test_a_picture_that_three_hospitals_have_is_found_at_all_of_them(tiny: Path) -> None:
    """Also where a hospital that trains on it is the one that tests on it as well."""
    scenario = load(tiny, ("data.audit=warn",))
    facts = told(scenario, ["alta", "bergen", "cadiz", "edinburgh"])
    for hospital, split in (("alta", "train"), ("cadiz", "train"), ("cadiz", "test")):
        facts[hospital][f"{split}_hashes"][0] = "f" * 64
    found = [text for text in plan_of_sites(scenario, facts).warnings if text.startswith("LEAKAGE: ")]
    assert found == ["LEAKAGE: 1 pictures lie on both sides of train and test, at alta and cadiz"]


def test_hashes_are_salted_and_those_of_pixels(copied: Callable[..., Scenario]) -> None:
    scenario = copied("train", "test", audit="warn")
    one, again = (told(scenario, ["oslo", "tromso"]) for _ in range(2))
    assert one == again
    both = {*one["oslo"]["train_hashes"]} & {*one["tromso"]["test_hashes"]}
    assert len(both) == 1, "in which alone a copy is found"
    other = told(scenario, ["oslo", "tromso"], salt="f" * 16)
    keys = [f"{split}_hashes" for split in SPLITS]
    for hospital in ("oslo", "tromso"):
        plan = make_plan(scenario, only=hospital)
        hashes = [{digest for key in keys for digest in facts[hospital][key]} for facts in (one, other)]
        assert len(hashes[0]) == len(hashes[1]) == len(plan.samples)
        assert not hashes[0] & hashes[1] and not hashes[0] & {*plan.samples["pixels_sha256"]}
        without = [{key: value for key, value in facts[hospital].items() if key not in keys} for facts in (one, other)]
        assert without[0] == without[1], "nothing else depends on the salt"


def test_facts_hold_no_name_of_a_picture_or_a_patient(copied: Callable[..., Scenario], tiny: Path) -> None:
    for scenario in (copied("train", "test", audit="warn"), load(tiny)):
        for hospital in scenario.data.centers:
            plan = make_plan(scenario, only=hospital)
            text = json.dumps(facts_of(plan, SALT))
            paths = [Path(sample) for sample in plan.samples["sample"]]
            names = {*plan.samples["sample"], *plan.samples["group"], *plan.samples["store"]}
            names |= {path.name for path in paths} | {path.stem for path in paths}
            assert len(names) > len(paths) and not [name for name in names if name in text]
            assert not [digest for digest in plan.samples["pixels_sha256"] if digest in text]


@pytest.mark.parametrize(("fusion", "refused"), [("mean", False), ("learned", True)])
def test_a_learned_fusion_is_scored_on_half_of_the_validation_groups(
    miniatures: Miniatures, tmp_path: Path, fusion: str, refused: bool
) -> None:
    raw = {
        "name": "halves",
        "model": {"name": "ensemble", "members": ["unet", "fpn"], "fusion": fusion},
        "data": {"image_size": 32, "centers": {"oslo": {"dataset": "kvasir-seg", "val": 0.3, "test": 0.3}}},
    }
    plan = replace(make_plan(parse(raw, "test"), miniatures("kvasir-seg").parent, only="oslo"), rendered=False)
    assert 5 <= plan.samples.query("split == 'val'")["group"].nunique() < 10
    facts = {"federation": "lab", "hospital": "oslo", "superlink": "lab:1", "expires": "2099-01-01"}
    assert bool(too_few(plan, SiteKit.model_validate(facts, context=tmp_path))) == refused

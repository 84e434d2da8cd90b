"""Label spaces: total over both datasets, sourced row by row, and right on the published list of HyperKvasir."""

from pathlib import Path

import pandas as pd
import pytest

from fedkvasir.data.datasets import hyperkvasir_labeled, kvasir_v2
from fedkvasir.data.labels import HYPERKVASIR, KVASIR, SOURCES, SPACES, find_space, tables, translate
from fedkvasir.errors import UserError

# datasets.simula.no/hyper-kvasir, images by folder.
COUNTS = {
    "barretts": 41, "barretts-short-segment": 53, "bbps-0-1": 646, "bbps-2-3": 1148, "cecum": 1009,
    "dyed-lifted-polyps": 1002, "dyed-resection-margins": 989, "esophagitis-a": 403, "esophagitis-b-d": 260,
    "hemorrhoids": 6, "ileum": 9, "impacted-stool": 131, "polyps": 1028, "pylorus": 999, "retroflex-rectum": 391,
    "retroflex-stomach": 764, "ulcerative-colitis-grade-0-1": 35, "ulcerative-colitis-grade-1": 201,
    "ulcerative-colitis-grade-1-2": 11, "ulcerative-colitis-grade-2": 443, "ulcerative-colitis-grade-2-3": 28,
    "ulcerative-colitis-grade-3": 133, "z-line": 932,
}  # fmt: skip
# Class names of official_splits/*.csv where they are not the folder's.
IN_THE_LISTS = {
    "polyp": "polyps", "hemorroids": "hemorrhoids", "normal-cecum": "cecum", "normal-pylorus": "pylorus",
    "normal-z-line": "z-line", "oesophagitis-a": "esophagitis-a", "oesophagitis-b-d": "esophagitis-b-d",
    "short-segment-barretts": "barretts-short-segment",
}  # fmt: skip


def test_the_names_are_those_of_the_folders() -> None:
    assert set(HYPERKVASIR) == set(COUNTS) and len(HYPERKVASIR) == 23
    assert KVASIR == (
        "dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum", "normal-pylorus",
        "normal-z-line", "polyps", "ulcerative-colitis",
    )  # fmt: skip


def test_the_readers_give_these_names() -> None:
    assert set(hyperkvasir_labeled.CLASSES) == set(HYPERKVASIR)
    assert set(kvasir_v2.CLASSES) == set(KVASIR)


@pytest.mark.parametrize("name", SPACES)
def test_every_label_of_both_datasets_has_one_row_with_a_source(name: str) -> None:
    space = find_space(name)
    labels = [label for row in space.rows for label in row.labels]
    assert sorted(labels) == sorted(set(HYPERKVASIR) | set(KVASIR))
    for row in space.rows:
        assert row.source in SOURCES and row.why
    assert set(space.table.values()) - {None} == set(space.classes)


def test_a_dataset_stays_as_it_is_in_its_own_space() -> None:
    for name, labels in (("hyperkvasir-23", HYPERKVASIR), ("kvasir-8", KVASIR)):
        classes, warnings = translate(find_space(name), pd.Series(labels))
        assert tuple(classes) == labels and not warnings


def test_the_published_list_of_hyperkvasir_in_every_space(real_data: Path) -> None:
    listed = pd.read_csv(real_data / "hyper-kvasir" / "official_splits" / "2_fold_split.csv", sep=";")["class-name"]
    labels = listed.replace(IN_THE_LISTS)
    expected = {
        "hyperkvasir-23": (COUNTS, 0),
        "kvasir-8": (
            {
                "dyed-lifted-polyps": 1002, "dyed-resection-margins": 989, "esophagitis": 663, "normal-cecum": 1009,
                "normal-pylorus": 999, "normal-z-line": 932, "polyps": 1028, "ulcerative-colitis": 851,
            },
            3189,
        ),
        "polyp": ({"no-polyp": 7643, "polyp": 2030}, 989),
        "pathology": ({"normal": 4104, "pathological": 2642}, 3916),
    }  # fmt: skip
    for name, (counts, lost) in expected.items():
        classes, warnings = translate(find_space(name), labels)
        assert classes.value_counts().to_dict() == counts
        assert classes.isna().sum() == lost and len(warnings) == (lost > 0)


def test_kvasir_among_the_23_loses_the_two_classes_without_a_grade() -> None:
    labels = pd.Series(["esophagitis", "normal-z-line", "ulcerative-colitis", "esophagitis"], index=[4, 3, 2, 1])
    classes, warnings = translate(find_space("hyperkvasir-23"), labels)
    assert classes.to_dict() == {4: None, 3: "z-line", 2: None, 1: None}
    assert warnings == [
        "2 classes have no partner in hyperkvasir-23, 3 samples left out: esophagitis (2), ulcerative-colitis (1)"
    ]


def test_the_names_of_a_space_are_labels_too() -> None:
    """A hospital's own images may carry them, beside HyperKvasir's; a sample without a label stays without one."""
    classes, warnings = translate(find_space("polyp"), pd.Series(["polyp", "no-polyp", "z-line", None]))
    assert list(classes)[:3] == ["polyp", "no-polyp", "no-polyp"] and classes.isna().tolist() == [False] * 3 + [True]
    assert not warnings


def test_a_label_nobody_knows_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"kvasir-8 does not know 'oesophagitis' \(did you mean 'esophagitis'\?\); re"):
        translate(find_space("kvasir-8"), pd.Series(["oesophagitis", "polyps"]))
    with pytest.raises(UserError, match=r"polyp does not know 'adenoma', 'sessile'; rename it to a class of the space"):
        translate(find_space("polyp"), pd.Series(["sessile", "polyps", "adenoma"]))
    with pytest.raises(UserError, match=r"unknown label space 'kvasir8' \(did you mean 'kvasir-8'\?\); known: "):
        find_space("kvasir8")


def test_the_page_shows_the_tables_of_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "labels.md"
    assert page.read_text(encoding="utf-8").endswith(tables())

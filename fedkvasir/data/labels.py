"""Label spaces: the classes of HyperKvasir and Kvasir in each other's terms, and in two yes-or-no questions.

Every label of both datasets has a row in every space: the class it becomes, or ``None`` (no partner), and why.
"""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fedkvasir.errors import UserError, did_you_mean

SOURCES = {
    "paper": "Borgli et al., HyperKvasir, Scientific Data 7, 283 (2020), doi:10.1038/s41597-020-00622-y: class names "
    "and the folder tree, where a class lies under anatomical-landmarks, pathological-findings, "
    "quality-of-mucosal-views or therapeutic-interventions",
    "lists": "HyperKvasir's own repository, github.com/simula/hyper-kvasir: class names in official_splits/*.csv and "
    "in the README, where some folders bear another name",
    "Kvasir": "Pogorelov et al., Kvasir, MMSys 2017, doi:10.1145/3083187.3083212, and datasets.simula.no/kvasir: "
    "class names and their descriptions",
    "choice": "a choice made here; no source states it",
}
"""What a row may name as its source."""
SAME = "itself"
"""What a label becomes where it is a class of the space."""


@dataclass(frozen=True)
class Row:
    """Labels of a dataset that become the same class for the same reason."""

    labels: tuple[str, ...]
    becomes: str | None
    """A class of the space, or :data:`SAME`; null: no partner, the samples are left out."""
    why: str
    source: str
    """A key of :data:`SOURCES`."""


@dataclass(frozen=True)
class Space:
    """The classes a scenario is about, in their order, and what becomes of every label."""

    name: str
    title: str
    classes: tuple[str, ...]
    rows: tuple[Row, ...]

    @cached_property
    def table(self) -> dict[str, str | None]:
        """Label -> class. A class is its own label too, so that a hospital's own images may carry the space's names."""
        return {name: name for name in self.classes} | {
            label: label if row.becomes == SAME else row.becomes for row in self.rows for label in row.labels
        }


LANDMARKS = ("cecum", "ileum", "pylorus", "retroflex-rectum", "retroflex-stomach", "z-line")
QUALITY = ("bbps-0-1", "bbps-2-3", "impacted-stool")
BARRETTS = ("barretts", "barretts-short-segment")
GRADED_ESOPHAGITIS = ("esophagitis-a", "esophagitis-b-d")
GRADED_COLITIS = tuple(f"ulcerative-colitis-grade-{grade}" for grade in ("0-1", "1", "1-2", "2", "2-3", "3"))
THERAPY = ("dyed-lifted-polyps", "dyed-resection-margins")

HYPERKVASIR = tuple(
    sorted((*LANDMARKS, *QUALITY, *BARRETTS, *GRADED_ESOPHAGITIS, *GRADED_COLITIS, *THERAPY, "hemorrhoids", "polyps"))
)
"""The 23 folder names of HyperKvasir's labeled images."""
KVASIR_LANDMARKS = ("normal-cecum", "normal-pylorus", "normal-z-line")
UNGRADED = ("esophagitis", "ulcerative-colitis")
KVASIR = tuple(sorted((*KVASIR_LANDMARKS, *UNGRADED, *THERAPY, "polyps")))
"""The 8 folder names of Kvasir, both versions."""

NORMAL = "the folder's class is called normal- in HyperKvasir's own lists"
BOTH = (*THERAPY, "polyps")
"""The names that both datasets use."""

HYPERKVASIR_23 = Space(
    "hyperkvasir-23",
    "The 23 classes of HyperKvasir, by folder name.",
    HYPERKVASIR,
    (
        Row(tuple(name for name in HYPERKVASIR if name not in BOTH), SAME, "the class itself", "paper"),
        Row(BOTH, SAME, "the same name and finding in both datasets", "Kvasir"),
        Row(("normal-cecum",), "cecum", NORMAL, "lists"),
        Row(("normal-pylorus",), "pylorus", NORMAL, "lists"),
        Row(("normal-z-line",), "z-line", NORMAL, "lists"),
        Row(("esophagitis",), None, "no grade in Kvasir, where HyperKvasir has the classes a and b-d", "Kvasir"),
        Row(("ulcerative-colitis",), None, "no grade in Kvasir, where HyperKvasir has grades 0-1 to 3", "Kvasir"),
    ),
)

KVASIR_8 = Space(
    "kvasir-8",
    "The 8 classes of Kvasir.",
    KVASIR,
    (
        Row(tuple(name for name in KVASIR if name not in BOTH), SAME, "the class itself", "Kvasir"),
        Row(BOTH, SAME, "the same name and finding in both datasets", "paper"),
        Row(("cecum",), "normal-cecum", NORMAL, "lists"),
        Row(("pylorus",), "normal-pylorus", NORMAL, "lists"),
        Row(("z-line",), "normal-z-line", NORMAL, "lists"),
        Row(GRADED_ESOPHAGITIS, "esophagitis", "Kvasir's class is any break of the mucosa at the Z-line", "Kvasir"),
        Row(GRADED_COLITIS, "ulcerative-colitis", "Kvasir's class goes from no inflammation to severe", "Kvasir"),
        Row(BARRETTS, None, "no class of Kvasir: neither esophagitis nor a normal Z-line", "Kvasir"),
        Row(QUALITY, None, "no class of Kvasir: it has landmarks, findings and polyp removal, no views", "Kvasir"),
        Row(("hemorrhoids",), None, "no class of Kvasir among its three findings", "Kvasir"),
        Row(
            ("ileum", "retroflex-rectum", "retroflex-stomach"),
            None,
            "no class of Kvasir among its three landmarks",
            "Kvasir",
        ),
    ),
)

POLYP = Space(
    "polyp",
    "Is there a polyp in the picture?",
    ("no-polyp", "polyp"),
    (
        Row(("polyps",), "polyp", "the class itself", "Kvasir"),
        Row(("dyed-lifted-polyps",), "polyp", "a polyp, lifted and dyed, not yet removed", "Kvasir"),
        Row(
            ("dyed-resection-margins",),
            None,
            "the site of a removal, where a rest of the polyp may be in view: neither answer is stated",
            "Kvasir",
        ),
        Row(KVASIR_LANDMARKS, "no-polyp", "called normal", "Kvasir"),
        Row(("cecum", "pylorus", "z-line"), "no-polyp", "called normal in HyperKvasir's own lists", "lists"),
        Row(
            (
                *("ileum", "retroflex-rectum", "retroflex-stomach", "hemorrhoids"),
                *(*QUALITY, *BARRETTS, *GRADED_ESOPHAGITIS, *GRADED_COLITIS, *UNGRADED),
            ),
            "no-polyp",
            "one label an image, and here it is another one; that no polyp is in view is not stated",
            "choice",
        ),
    ),
)

PATHOLOGY = Space(
    "pathology",
    "Does the picture show a pathological finding, or a landmark?",
    ("normal", "pathological"),
    (
        Row(LANDMARKS, "normal", "lies under anatomical-landmarks", "paper"),
        Row(KVASIR_LANDMARKS, "normal", "an anatomical landmark, called normal", "Kvasir"),
        Row(
            (*BARRETTS, *GRADED_ESOPHAGITIS, *GRADED_COLITIS, "hemorrhoids", "polyps"),
            "pathological",
            "lies under pathological-findings",
            "paper",
        ),
        Row(UNGRADED, "pathological", "a pathological finding", "Kvasir"),
        Row(THERAPY, None, "lies under therapeutic-interventions: dye gives it away, not disease", "paper"),
        Row(QUALITY, None, "lies under quality-of-mucosal-views: says how clean, not how healthy", "paper"),
    ),
)

SPACES = {space.name: space for space in (HYPERKVASIR_23, KVASIR_8, POLYP, PATHOLOGY)}


def find_space(name: str) -> Space:
    """Raises UserError with the nearest spelling."""
    if name not in SPACES:
        raise UserError(f"unknown label space {name!r}{did_you_mean(name, list(SPACES))}; known: {', '.join(SPACES)}")
    return SPACES[name]


def translate(space: Space, labels: pd.Series) -> tuple[pd.Series, list[str]]:
    """The class of every sample, null where its label has no partner (or is null), and warnings with counts.

    labels: label of each sample; the index is kept. Raises UserError that names labels the space does not know.
    """
    given = labels.dropna().astype(str)
    counts = given.value_counts(sort=False)
    unknown = sorted(set(counts.index) - set(space.table))
    if unknown:
        named = ", ".join(repr(label) for label in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"label space {space.name} does not know {named}{did_you_mean(unknown[0], list(space.table))}; "
            "rename it to a class of the space or choose another space"
        )
    lost = {label: int(counts[label]) for label in space.table if label in counts and space.table[label] is None}
    warnings = []
    if lost:
        named = ", ".join(f"{label} ({count})" for label, count in sorted(lost.items()))
        noun = "class has" if len(lost) == 1 else "classes have"
        warnings.append(
            f"{len(lost)} {noun} no partner in {space.name}, {sum(lost.values())} samples left out: {named}"
        )
    classes = [space.table.get(str(label)) for label in labels]
    return pd.Series(classes, index=labels.index, dtype=object), warnings


def tables() -> str:
    """All spaces as Markdown: what ``docs/labels.md`` shows."""
    text = "## Sources\n\n" + "\n".join(f"- `{key}`: {what}." for key, what in SOURCES.items())
    for space in SPACES.values():
        classes = ", ".join(f"`{name}`" for name in space.classes)
        text += f"\n\n## `{space.name}`\n\n{space.title} Classes: {classes}.\n\n"
        text += "| label | becomes | why | source |\n|---|---|---|---|\n"
        text += "\n".join(
            f"| {', '.join(row.labels)} | {row.becomes or 'no partner'} | {row.why} | {row.source} |"
            for row in space.rows
        )
    return text + "\n"

"""ARFF: what the format allows is read, and everything else is refused with file and line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import arff as scipy_arff

from fedkvasir.data.arff import Attribute, read_arff, read_header
from fedkvasir.errors import UserError

TEXT = """% made by hand
@RELATION 'global features'

@attribute filename string
@attribute "edge density" REAL
@attribute n integer
@attribute 'Cluster' {cluster0, 'cluster 1', "it's"}

@DATA
% a comment between rows
a.jpg, 0.5, 3, cluster0
'b, c\\'s.jpg',-1e-3,?,'cluster 1'
"?",?,7,"it's"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "table.arff"
    path.write_text(text, encoding="utf-8")
    return path


def test_strings_numbers_nominals_quotes_comments_and_missing_values(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT)
    table = read_arff(path)
    assert list(table.columns) == ["filename", "edge density", "n", "Cluster"]
    assert list(table["filename"]) == ["a.jpg", "b, c's.jpg", "?"]
    assert list(table["Cluster"]) == ["cluster0", "cluster 1", "it's"]
    np.testing.assert_array_equal(table["edge density"], np.float32([0.5, -1e-3, np.nan]))
    np.testing.assert_array_equal(table["n"], np.float32([3, np.nan, 7]))
    assert table["n"].dtype == np.float32
    assert read_header(path)[2:] == (
        Attribute("n", "numeric"),
        Attribute("Cluster", "nominal", frozenset({"cluster0", "cluster 1", "it's"})),
    )


def test_a_missing_text_is_none_and_a_quoted_question_mark_is_one(tmp_path: Path) -> None:
    table = read_arff(written(tmp_path, "@relation r\n@attribute a string\n@data\n?\n'?'\n"))
    assert list(table["a"]) == [None, "?"]


ESCAPES = str.maketrans({"'": r"\'", "\\": r"\\"})
TEXTS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]))
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(rows=st.lists(st.tuples(TEXTS, NUMBERS), min_size=1))
def test_what_is_quoted_comes_back_as_it_was(
    rows: list[tuple[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [f"'{text.translate(ESCAPES)}',{value!r}" for text, value in rows]
    head = ["@relation r", "@attribute t string", "@attribute v real", "@data"]
    table = read_arff(written(tmp_path_factory.mktemp("arff"), "\n".join(head + lines)))
    assert list(zip(table["t"], table["v"].astype(float), strict=True)) == rows


def test_agrees_with_scipy_where_scipy_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{a:.5f},{b:.3e},c{c}" for a, b, c in zip(*rng.normal(size=(2, 20)), rng.integers(0, 3, 20), strict=True)]
    head = ["@relation r", "@attribute a numeric", "@attribute b real", "@attribute c {c0,c1,c2}", "@data"]
    path = written(tmp_path, "\n".join(head + rows))
    theirs, _ = scipy_arff.loadarff(path)
    ours = read_arff(path)
    for name in ("a", "b"):
        np.testing.assert_array_equal(ours[name], theirs[name].astype(np.float32))
    assert list(ours["c"]) == [value.decode() for value in theirs["c"]]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("@RELATION 'global features'\n", "", "line 3: an ARFF file begins with @relation, here: '@attribute filename"),
        ("filename string", "filename date", "line 4: filename is of type date; read are numeric, real, integer"),
        ("filename string", "filename", "line 4: not `@attribute name type`"),
        ("n integer", "filename integer", "line 6: a second attribute 'filename'"),
        ("@DATA", "data:", "line 9: @attribute or @data is due, here: 'data:'"),
        (TEXT[TEXT.index("@DATA") :], "", "ends without @data"),
        (TEXT[TEXT.index("a.jpg") :], "", "holds no row after @data"),
        ("a.jpg, 0.5, 3, cluster0", "{0 a.jpg, 1 0.5}", "line 11 is a sparse row"),
        ("a.jpg, 0.5, 3, cluster0", "a.jpg, 0.5, 3", "line 11 holds 3 values for 4 attributes"),
        ("a.jpg, 0.5, 3, cluster0", "a.jpg, 0.5, 3, cluster0, {5}", "line 11 holds 5 values for 4 attributes"),
        ("a.jpg, 0.5", "a.jpg, half", "line 11: edge density = 'half' is not a number"),
        ("a.jpg, 0.5", "a.jpg, nan", "line 11: edge density = 'nan' is not a number"),
        ("a.jpg, 0.5", "a.jpg, 1e99", "line 11: edge density = '1e99' is not a number"),
        ("a.jpg, 0.5", "a.jpg, ", "line 11: value 2 is empty; a missing one is written ?"),
        ("3, cluster0", "3, cluster7", "line 11: Cluster = 'cluster7' is none of its declared values"),
        ("'cluster 1'\n\"", "'cluster 1\n\"", "line 12: value 4 has a quote that does not fit"),
        (",'cluster 1'", ",'cluster 1',", "line 12: value 5 is empty"),
    ],
)
def test_what_is_not_as_declared_is_one_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    assert TEXT.count(old) == 1
    path = written(tmp_path, TEXT.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_arff(path)
    assert str(path) in str(caught.value) and sentence in str(caught.value) and "\n" not in str(caught.value)


def test_no_text_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "binary.arff").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.arff", "none.arff"):
        with pytest.raises(UserError, match=f"{name} cannot be read as text"):
            read_arff(tmp_path / name)

"""One table in every format: nothing lost, nothing broken by an odd name."""

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.report.tables import Column, Estimate, Interval, Row, Table, csv_text, decimals, latex, markdown, p_value

NAN = math.nan
TABLE = Table(
    "Scores",
    (Column("Role"), Column("Images"), Column("Dice"), Column("95 % interval"), Column("Gap"), Column("p", p_value)),
    (
        Row("alta", "train", ("trains", 1200, 0.81234, Interval(0.75, 0.875), Estimate(-0.02, -0.1, 0.06), 0.0004)),
        Row("c_1 & co|ltd", "holdout", ("holdout", 7, NAN, Interval(NAN, NAN), Estimate(0.5, NAN, NAN), 0.25)),
    ),
    (Row("Seen", "train", ("", 1207, -0.0001, "", "", "")),),
)


def test_people_read_three_decimals_true_minus_signs_and_dashes() -> None:
    assert [TABLE.texts(row) for row in (*TABLE.rows, *TABLE.footer)] == [
        ("trains", "1,200", "0.812", "[0.750, 0.875]", "\u22120.020 [\u22120.100, 0.060]", "< 0.001"),
        ("holdout", "7", "–", "–", "0.500", "0.25"),
        ("", "1,207", "0.000", "", "", ""),
    ]


@pytest.mark.parametrize(
    ("p", "text"), [(0.0009, "< 0.001"), (0.0449, "0.045"), (0.1, "0.10"), (1, "1.00"), (NAN, "–")]
)
def test_p_values(p: float, text: str) -> None:
    assert p_value(p) == text


@given(st.floats(-1e6, 1e6))
def test_no_minus_before_zero(value: float) -> None:
    text = decimals(2, value).replace(",", "").replace("\u2212", "-")
    assert float(text) == pytest.approx(value, abs=0.00501) and text != "-0.00"


def test_csv_has_an_interval_in_two_columns_and_no_thousands() -> None:
    header, *rows = csv.reader(io.StringIO(csv_text(TABLE)))
    assert header[:6] == ["Center", "Role", "Images", "Dice", "95 % interval, low", "95 % interval, high"]
    assert header[6:] == ["Gap", "Gap, low", "Gap, high", "p"]
    assert rows[0] == ["alta", "trains", "1200", "0.81234", "0.75", "0.875", "-0.02", "-0.1", "0.06", "0.0004"]
    assert rows[1] == ["c_1 & co|ltd", "holdout", "7", "", "", "", "0.5", "", "", "0.25"]
    assert rows[2] == ["Seen", "", "1207", "-0.0001", "", "", "", "", "", ""]


def test_markdown_is_one_table_whatever_a_center_is_called() -> None:
    lines = markdown([TABLE]).splitlines()
    assert lines[0] == "**Scores**" and lines[3] == "| :-- | :-- | --: | --: | --: | --: | --: |"
    assert {line.replace("\\|", "").count("|") for line in lines[2:]} == {8}


def test_latex_is_a_booktabs_table_with_special_characters_escaped() -> None:
    text = latex([TABLE])
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert r"\begin{tabular}{llrrrrr}" in text and r"95 \% interval" in text and r"c\_1 \& co|ltd" in text
    assert "$-$0.020 [$-$0.100, 0.060]" in text and r"\textless{} 0.001" in text
    lines = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {line.count(" & ") for line in lines} == {6} and text.isascii()

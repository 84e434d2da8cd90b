"""Published splits are kept, and a frozen split gives the same hospitals again, or says why it cannot."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fedkvasir.data.hospitals import Hospitals, gather
from fedkvasir.data.split import FROZEN, freeze, split_center
from fedkvasir.errors import UserError
from fedkvasir.scenario import Center, load


def split(scenario: Path, *overrides: str) -> Hospitals:
    return gather(load(scenario, overrides))


def test_a_published_split_with_train_val_and_test_is_kept_as_it_is() -> None:
    published = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    table = pd.DataFrame({"sample": [f"s{n}" for n in range(20)], "official_split": published})
    table = table.assign(group=table["sample"], label=None, balance="", stratum="")
    center = Center.model_validate({"dataset": "x", "split": "official", "partition": {"kind": "iid", "parts": 2}})
    done = split_center("oslo", center, table, 0)
    assert list(done["split"]) == published
    assert set(done["center"][:16]) == {"oslo-1", "oslo-2"} and set(done["center"][16:]) == {"oslo"}


def test_hospitals_cut_out_of_a_published_split_train_and_validate_on_equal_shares() -> None:
    published = ["train"] * 60 + ["val"] * 30 + ["test"] * 10
    table = pd.DataFrame({"sample": [f"s{n}" for n in range(100)], "official_split": published})
    table = table.assign(group=[f"g{n // 2}" for n in range(100)], label=None, balance="", stratum="")
    center = Center.model_validate({"dataset": "x", "split": "official", "partition": {"kind": "iid", "parts": 3}})
    done = split_center("oslo", center, table, 0)
    counts = done[done["split"] != "test"].groupby(["split", "center"]).size()
    assert counts["train"].tolist() == [20] * 3 and counts["val"].tolist() == [10] * 3


def test_patients_that_are_known_by_now_are_not_torn_by_a_frozen_split(tmp_path: Path) -> None:
    rows = []
    for number in range(24):
        Image.effect_noise((40, 30), 60 + number).convert("RGB").save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,")
    (tmp_path / "samples.csv").write_text("\n".join(["image,mask", *rows]))
    scenario, path = tmp_path / "s.yaml", tmp_path / "frozen.csv"
    scenario.write_text(
        f"data: {{image_size: 32, centers: {{ours: {{dataset: folder, root: {tmp_path}, val: 0.2, test: 0.4}}}}}}\n"
        "model: {name: unet, encoder: tu-lcnet_050}\n"
    )
    freeze(split(scenario).samples, path)
    patients = [f"{row},p{number % 12}" for number, row in enumerate(rows)]
    (tmp_path / "samples.csv").write_text("\n".join(["image,mask,group", *patients]))
    held = split(scenario, f"data.split_file={path}")
    assert held.samples["group"].nunique() == 12 and (held.leaks["kind"] == "group").any()


def test_a_frozen_split_gives_the_same_hospitals_whatever_the_seed(tiny: Path, tmp_path: Path) -> None:
    one, path = split(tiny), tmp_path / "frozen.csv"
    freeze(one.samples, path)
    assert tuple(pd.read_csv(path).columns) == FROZEN
    columns = ["sample", "center", "split", "group", "role"]
    two = split(tiny, f"data.split_file={path}", "data.split_seed=9")
    pd.testing.assert_frame_equal(one.samples[columns], two.samples[columns])
    assert not split(tiny, "data.split_seed=9").samples[columns].equals(one.samples[columns])


def test_a_frozen_split_that_does_not_fit_is_refused_in_one_sentence(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "frozen.csv"
    freeze(split(tiny).samples, path)
    table = pd.read_csv(path, dtype=str)

    def refused(changed: pd.DataFrame, why: str) -> None:
        changed.to_csv(path, index=False)
        with pytest.raises(UserError, match=why):
            split(tiny, f"data.split_file={path}")

    refused(table.drop(columns="split"), "lacks the column split")
    refused(pd.concat([table, table[:1]]), "twice")
    refused(table.assign(sample=table["sample"].replace(table["sample"][0], "x/y")), "1 of its samples are not here")
    refused(table.assign(pixels_sha256="0" * 64), "is another picture now")
    refused(table.assign(source="bergen"), "belongs to another center there")
    refused(table.assign(split="dev"), "other than train, val and test")
    refused(table.assign(split="train"), "belongs to a holdout, which is all test")
    refused(table.assign(center=table["center"].replace("alta", None)), r"\(\w+\) is at no hospital; the column center")
    refused(table.assign(center=table["center"].replace("edinburgh", "alta")), "test.* is at alta; .* say edinburgh$")
    refused(table.assign(center=table["center"].replace("alta", "dresden")), "is at dresden; .* say alta$")
    header, *rows = table.to_csv(index=False).splitlines()
    path.write_text("\n".join([header, *(row + "," for row in rows)]))
    with pytest.raises(UserError, match=r"frozen\.csv cannot be read as CSV: its first row has more cells"):
        split(tiny, f"data.split_file={path}")
    path.write_text("sample;split\na;train\n")
    with pytest.raises(UserError, match="lacks the column sample"):
        split(tiny, f"data.split_file={path}")
    with pytest.raises(UserError, match="does not exist; `fedkvasir data split"):
        split(tiny, f"data.split_file={tmp_path / 'nowhere.csv'}")


def test_a_frozen_split_knows_the_hospitals_that_a_center_is_cut_into(tiny: Path, tmp_path: Path) -> None:
    path, cut = tmp_path / "frozen.csv", "data.centers.alta.partition={kind: iid, parts: 2, minimum: 2}"
    freeze(split(tiny, cut).samples, path)
    assert {"alta", "alta-1", "alta-2"} <= set(split(tiny, cut, f"data.split_file={path}").samples["center"])
    with pytest.raises(UserError, match=r"is at alta-[12]; the column center must say alta$"):
        split(tiny, f"data.split_file={path}")
    table = pd.read_csv(path, dtype=str)
    table.assign(center=table["center"].replace("alta-2", "alta")).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"\((train|val)\) is at alta; the column center must say alta-1 or alta-2$"):
        split(tiny, cut, f"data.split_file={path}")


def test_what_a_frozen_split_does_not_list_is_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    """And is known all the same: weights that were trained with it may have learnt a picture that is tested here."""
    path, whole = tmp_path / "frozen.csv", split(tiny)
    freeze(whole.samples[3:], path)
    held = split(tiny, f"data.split_file={path}")
    assert any("3 images are not in" in text for text in held.warnings)
    assert held.groups == whole.groups


def test_splits_are_balanced_by_polyp_presence(tmp_path: Path) -> None:
    """Forty pictures, ten without a polyp: each split gets its quarter."""
    rows = ["image,mask"]
    for number in range(40):
        Image.effect_noise((40, 30), 60 + number).convert("RGB").save(tmp_path / f"{number}.png")
        Image.new("L", (40, 30), 255).save(tmp_path / f"m{number}.png")
        rows.append(f"{number}.png,{f'm{number}.png' if number % 4 else ''}")
    (tmp_path / "samples.csv").write_text("\n".join(rows))
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        f"data: {{image_size: 32, centers: {{ours: {{dataset: folder, root: {tmp_path}, val: 0.2, test: 0.2}}}}}}\n"
        "model: {name: unet, encoder: tu-lcnet_050}\n"
    )
    samples = split(scenario).samples
    empty = samples.assign(empty=samples["area_px"] == 0).groupby("split")["empty"].agg(["sum", "size"])
    assert empty.loc["test"].tolist() == [2, 8] and empty.loc["train"].tolist()[1] == 26
    assert 1 <= empty.loc["val", "sum"] <= 2

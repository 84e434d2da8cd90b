"""Archives are checked before a byte is written, and unpacked whole or not at all."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedkvasir.data.archive import is_archive, unpack
from fedkvasir.errors import UserError


def make_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"0123456789" * 100)
    return path


def test_a_zip_and_a_tar_are_unpacked_into_a_folder_of_their_own_name(tmp_path: Path) -> None:
    target = unpack(make_zip(tmp_path / "kvasir-seg.zip", ["Kvasir-SEG/images/a.jpg"]), tmp_path / "data")
    assert target == tmp_path / "data" / "kvasir-seg" and (target / "Kvasir-SEG/images/a.jpg").stat().st_size == 1000
    with tarfile.open(tmp_path / "wilds.tar.gz", "w:gz") as archive:
        archive.add(target, "camelyon17_v1.0")
    assert (unpack(tmp_path / "wilds.tar.gz", tmp_path) / "camelyon17_v1.0/Kvasir-SEG/images/a.jpg").is_file()


def test_single_files_are_unpacked_side_by_side_as_pcam_wants_them(tmp_path: Path) -> None:
    for name in ("train_x.h5", "train_y.h5"):
        with gzip.open(tmp_path / f"{name}.gz", "wb") as stream:
            stream.write(name.encode())
        assert unpack(tmp_path / f"{name}.gz", tmp_path / "pcam").read_bytes() == name.encode()
    assert sorted(path.name for path in (tmp_path / "pcam").iterdir()) == ["train_x.h5", "train_y.h5"]
    with pytest.raises(UserError, match="exists already"):
        unpack(tmp_path / "train_x.h5.gz", tmp_path / "pcam")


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil.txt", "C:\\evil.txt"])
def test_names_that_lead_outside_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    make_zip(tmp_path / "bad.zip", ["fine.txt", name])
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    for archive_name in ("bad.zip", "bad.tar"):
        with pytest.raises(UserError, match="leads outside the folder; nothing was unpacked"):
            unpack(tmp_path / archive_name, tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists() and not list((tmp_path / "out").iterdir())


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    with pytest.raises(UserError, match="neither a file nor a folder"):
        unpack(tmp_path / "bad.tar", tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".h5.gz"])
def test_a_half_downloaded_archive_says_so_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    whole = make_zip(tmp_path / "whole.zip", [f"{n}.jpg" for n in range(20)]).read_bytes()
    if suffix != ".zip":
        whole = gzip.compress(whole)
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"half.* is broken or half-downloaded .*; download it again"):
        unpack(half, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_zip_compressed_as_windows_does_above_2_gb_says_so(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "big.zip", ["a.jpg"]).read_bytes())
    for header, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(header) + method] = 9  # Deflate64
    (tmp_path / "big.zip").write_bytes(content)
    with pytest.raises(
        UserError, match=r"big\.zip is compressed in a way not known here; unpack it with its own program"
    ):
        unpack(tmp_path / "big.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_what_is_there_already_is_never_overwritten(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", ["x"])
    unpack(archive, tmp_path)
    with pytest.raises(UserError, match="exists already"):
        unpack(archive, tmp_path)
    with pytest.raises(UserError, match=r"ETIS\.rar: .* unpack this one with its own program"):
        (tmp_path / "ETIS.rar").write_bytes(b"Rar!")
        unpack(tmp_path / "ETIS.rar", tmp_path)


def test_medical_images_are_no_archives() -> None:
    assert is_archive(Path("a.zip")) and is_archive(Path("x.h5.gz")) and not is_archive(Path("ct.nii.gz"))

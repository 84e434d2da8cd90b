"""`fedkvasir site ...`: what a coordinator types and sees."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Command

FEDERATION = """
name: lab
address: lab.example.org:8000
hospitals: [oslo, bergen]
"""


@pytest.fixture
def kit(command: Command, tmp_path: Path) -> Command:
    """``fedkvasir site kit federation.yaml ...``"""
    (tmp_path / "federation.yaml").write_text(FEDERATION)
    return partial(command, "site", "kit", "federation.yaml", cwd=tmp_path)


def test_kits_are_written_and_it_says_what_goes_to_whom(kit: Command, tmp_path: Path) -> None:
    done, ends = kit(), datetime.now(UTC).date() + timedelta(days=365)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:4]] == [
        "kits/oslo", "kits/bergen", "kits/server", "kits/ca",
    ]  # fmt: skip
    assert f"expires {ends}; renew before: fedkvasir site kit federation.yaml --out kits --renew" in done.stdout
    secret = (tmp_path / "kits" / "server" / "superexec.secret").read_text()
    assert secret not in done.stdout + done.stderr
    (tmp_path / "federation.yaml").write_text(FEDERATION.replace("oslo, bergen", "bergen, tromso"))
    again = kit().stdout
    assert "kits/tromso: for tromso" in again and "kits/bergen:" not in again
    assert "oslo still takes part; --revoke oslo ends that" in again


def test_renewal_says_what_is_left_to_do(kit: Command, tmp_path: Path) -> None:
    kit("--out", "lab-kits")
    (tmp_path / "federation.yaml").write_text(FEDERATION + "valid_days: 30\n")
    done, ends = kit("--out", "lab-kits", "--renew"), datetime.now(UTC).date() + timedelta(days=30)
    assert done.returncode == 0 and f"holds until {ends}; next: copy lab-kits/server" in done.stdout
    assert f"each sets `expires: {ends}` in its site.yaml" in done.stdout


def test_revocation_says_what_is_left_to_do(kit: Command) -> None:
    kit()
    done = kit("--revoke", "oslo")
    assert done.returncode == 0 and "the server refuses its key within seconds" in done.stdout
    assert "oslo is revoked and gets no kit" in kit().stdout


def test_a_mistake_is_one_sentence(kit: Command, command: Command, tmp_path: Path) -> None:
    assert "does not exist; give a federation's file" in command("site", "kit", tmp_path / "nowhere.yaml").stderr
    assert "server.yaml does not exist" in kit("--renew").stderr
    assert "server.yaml does not exist" in kit("--revoke", "oslo").stderr
    kit()
    for arguments, words in (
        (("--revoke", "osl"), "no hospital 'osl' (did you mean 'oslo'?)"),
        (("--renew", "--revoke", "oslo"), "--renew and --revoke are two steps"),
    ):
        told = kit(*arguments)
        assert told.returncode == 2 and words in told.stderr and told.stderr.count("\n") == 1
    (tmp_path / "federation.yaml").write_text(FEDERATION.replace("hospitals", "hospital"))
    assert "unknown key hospital (did you mean 'hospitals'?)" in kit().stderr


def test_where_this_machines_data_lie_is_no_affair_of_hospitals(tiny: Path, command: Command) -> None:
    """Said on the command line it is refused; said by the environment it does not matter."""
    words = ("run", tiny, "--on", "nolab")
    done = command(*words, FEDKVASIR_DATA="/somewhere")
    assert done.returncode == 2 and "--on nolab: neither nolab nor" in done.stderr
    done = command(*words, "--data", "/somewhere")
    assert done.returncode == 2 and "hospitals have their own; leave out --dry-run, --data" in done.stderr

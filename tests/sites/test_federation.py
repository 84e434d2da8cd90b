"""What federation.yaml, server.yaml and site.yaml may say, and the sentence for what they may not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.errors import UserError
from fedkvasir.scenario import WHOLE, parse
from fedkvasir.sites.federation import Federation, ServerKit, SiteKit, split_address

FEDERATION = {"name": "lab", "address": "lab.example.org:8000", "hospitals": ["oslo", "bergen"]}
SITE = {"federation": "lab", "hospital": "oslo", "superlink": "lab.example.org:8000", "expires": "2027-11-22"}
SERVER = {"name": "lab", "address": "lab.example.org:443", "hospitals": ["oslo"], "expires": "2027-11-22"}
MISSPELT = [
    ({"adress": "lab:1"}, "unknown key adress (did you mean 'address'?); allowed here: name, address, listen"),
    ({"name": None}, "name = None"),
    ({"name": "My Lab"}, "name: 'My Lab' is not a name of 1 to 63 lower-case letters, digits and hyphens"),
    ({"address": "lab.example.org"}, "address: 'lab.example.org' is not of the form host:port"),
    ({"address": "https://lab:8000"}, "is not of the form host:port"),
    ({"address": "lab:8000/fleet"}, "is not of the form host:port"),
    ({"address": "me@lab:8000"}, "is not of the form host:port"),
    ({"address": "lab:0"}, "is not of the form host:port"),
    ({"address": "lab:70000"}, "is not of the form host:port"),
    ({"address": "my_lab:8000"}, "'my_lab' is neither a host's name nor an IP address"),
    ({"address": "10.0.0:8000"}, "'10.0.0' is neither a host's name nor an IP address"),
    ({"address": "0.0.0.0:8000"}, "nobody can connect to 0.0.0.0"),
    ({"address": "[::]:8000"}, "nobody can connect to ::"),
    ({"listen": "here and there"}, "listen: 'here and there' is neither a host's name nor an IP address"),
    ({"valid_days": 0}, "valid_days = 0: input should be greater than or equal to 1"),
    ({"valid_days": 9999}, "valid_days = 9999: input should be less than or equal to 3650"),
    ({"hospitals": []}, "hospitals = []"),
    ({"hospitals": "oslo"}, "hospitals = 'oslo'"),
    ({"hospitals": ["oslo", "oslo"]}, "hospitals: oslo stands there twice"),
    ({"hospitals": ["oslo", "server"]}, "hospitals.1: 'server' is a folder beside the hospitals' kits"),
    ({"hospitals": ["ca"]}, "hospitals.0: 'ca' is a folder beside the hospitals' kits"),
    ({"hospitals": ["oslo", "pooled"]}, "hospitals.1: 'pooled' is what federation.train says of all hospitals"),
    ({"hospitals": ["../oslo"]}, "hospitals.0 = '../oslo': a name may hold a-z, 0-9 and '-', and"),
    ({"hospitals": ["o" * 41]}, "string should have at most 40 characters"),
    ({"hospitals": ["oslo\n"]}, "hospitals.0 = 'oslo\\n': a name may hold a-z, 0-9"),
    ({"hospitals": [False]}, "hospitals.0 = False: input should be a valid string; put it in quotes"),
]


@pytest.mark.parametrize(("wrong", "words"), MISSPELT)
def test_a_mistake_is_one_sentence_with_file_and_key(tmp_path: Path, wrong: dict[str, object], words: str) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(FEDERATION | wrong))
    with pytest.raises(UserError) as told:
        Federation.load(path)
    assert str(told.value).startswith(f"{path}: ") and words in str(told.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: [lab")
    (tmp_path / "list.yaml").write_text("- lab")
    (tmp_path / "short.yaml").write_text("name: lab")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    for name, words in (
        ("broken.yaml", "is not valid YAML"),
        ("picture.yaml", "is not in UTF-8; save it as such"),
        ("list.yaml", "must hold keys and values"),
        ("short.yaml", "key address is missing (and 1 more problem)"),
        ("nowhere.yaml", "does not exist; give a federation's file"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
            Federation.load(tmp_path / name)


def test_a_folder_that_is_no_kit_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"site\.yaml does not exist; give a hospital's kit"):
        SiteKit.load(tmp_path)
    with pytest.raises(UserError, match=r"server\.yaml does not exist; give the server's kit"):
        ServerKit.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"share": "per-centre"}, "did you mean 'per-center'?"),
        ({"state": "elsewhere"}, "allowed here: federation, hospital, superlink, data, folder"),
        ({"approve": ["abc"]}, "approve.0: 'abc' is not a sha256, 64 hexadecimal digits"),
        ({"runtime_port": 65536}, "runtime_port = 65536"),
        ({"expires": "soon"}, "expires = 'soon'"),
        ({"hospital": "ca"}, "hospital: 'ca' is a folder"),
        ({"hospital": "each"}, "hospital: 'each' is what federation.train says"),
    ],
)
def test_a_hospitals_mistake_is_one_sentence(tmp_path: Path, wrong: dict[str, object], words: str) -> None:
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(SITE | wrong))
    with pytest.raises(UserError) as told:
        SiteKit.load(tmp_path)
    assert str(told.value).startswith(f"{tmp_path / 'site.yaml'}: ") and words in str(told.value)


def test_paths_of_a_kit_are_absolute_wherever_it_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    kit = tmp_path / "oslo"
    kit.mkdir()
    for said, data, state in (
        ({}, kit / "data", kit / "state"),
        ({"data": "/srv/images", "folder": "~/kept"}, Path("/srv/images"), Path("/home/ada/kept")),
        ({"data": "../shared"}, kit / "../shared", kit / "state"),
    ):
        (kit / "site.yaml").write_text(yaml.safe_dump(SITE | said))
        site = SiteKit.load(Path("oslo"))
        assert (site.data, site.state) == (data, state)
        assert (site.root, site.key, site.public_key) == (kit, kit / "key", kit / "key.pub")
        assert site.ca_certificate == kit / "ca.crt"


def test_a_server_knows_its_port_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(SERVER))
    server = ServerKit.load(tmp_path)
    assert (server.port, server.listen, server.revoked) == (443, "0.0.0.0", ())
    files = (server.certificate, server.certificate_key, server.secret, server.keys, server.revoked_keys, server.state)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "server.pem", "server.key", "superexec.secret", "keys", "revoked", "state",
    ]  # fmt: skip


@given(st.text("ab-9_A", max_size=42) | st.sampled_from([*WHOLE, "a" * 40, "a" * 41]))
def test_a_hospital_is_called_as_a_scenario_can_call_a_center_and_not_otherwise(name: str) -> None:
    def refused(make: Callable[[], object]) -> bool:
        try:
            make()
        except (UserError, ValueError):
            return True
        return False

    raw = {"name": "names", "model": {"name": "unet"}, "data": {"centers": {name: {"dataset": "synthetic"}}}}
    kit = SITE | {"hospital": name}
    assert refused(lambda: parse(raw, "test")) == refused(lambda: SiteKit.model_validate(kit, context=Path()))


@given(st.ip_addresses(v=6).map(lambda ip: (f"[{ip}]", str(ip))) | st.ip_addresses(v=4).map(lambda ip: (str(ip),) * 2))
def test_any_ip_address_comes_out_of_an_address(pair: tuple[str, str]) -> None:
    assert split_address(f"{pair[0]}:8000") == (pair[1], 8000)

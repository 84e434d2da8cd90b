"""What would not work at a hospital, and how to mend it: on this machine, in the kit, on the way to the server."""

import socket
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from fedkvasir.data.datasets import find_all
from fedkvasir.data.store import cache_folder
from fedkvasir.doctor import Finding, disk, gpu
from fedkvasir.errors import UserError
from fedkvasir.scenario import Scenario
from fedkvasir.sites.federation import SiteKit
from fedkvasir.sites.knock import FLOWER, apart, knock, private_key

CLOCK_S = 10
"""The server takes what was signed up to 5 s ahead of its own clock, and up to 305 s behind it."""
SOON_DAYS = 30


def examine(kit: SiteKit, scenario: Scenario | None = None) -> Iterator[Finding]:
    """Look at versions, room, the kit, the way to the server, the data; at a scenario as well, if one is given.

    Changes nothing but the store of prepared images, which a scenario needs.
    """
    yield from _versions()
    yield gpu()
    yield disk("state", kit.state, "free some space, or let `folder` in site.yaml name another disk")
    yield disk("prepared images", cache_folder(), "free some space, or set FEDKVASIR_CACHE to another disk")
    trust = [_key(kit), _authority(kit)]
    yield from (*trust, _secrets(kit), _expiry(kit), _port(kit))
    if all(finding.state == "ok" for finding in trust):
        yield from _server(kit)
    yield from _data(kit)
    if scenario:
        yield from _scenario(kit, scenario)


def refuse_hopeless(kit: SiteKit) -> None:
    """Raises UserError at the first thing that the hospital cannot be started without."""
    if "'" in str(kit.root):
        raise UserError(f"{kit.root} has a quote in its name, which Flower does not take; move the folder")
    for finding in (_key(kit), _authority(kit), _port(kit)):
        if finding.state == "fail":
            raise UserError(f"{finding.what}; {finding.mend}")


def readable_by_others(files: Iterable[Path]) -> list[Path]:
    """Those of them that accounts other than this one may read."""
    return [path for path in files if path.exists() and path.stat().st_mode & 0o077]


def is_free(host: str, port: int) -> bool:
    """Whether a program of this machine can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _versions() -> Iterator[Finding]:
    number = ".".join(map(str, sys.version_info[:3]))
    right = sys.version_info[:2] in ((3, 11), (3, 12))
    yield Finding("ok" if right else "fail", f"python {number}", "" if right else "install Python 3.11 or 3.12")
    yield from (Finding("ok", f"{name} {version(name)}") for name in ("fedkvasir", "torch"))
    flower = version("flwr")
    right = flower.startswith(FLOWER)
    yield Finding("ok" if right else "fail", f"flwr {flower}", "" if right else f"pip install 'flwr=={FLOWER}*'")


def _key(kit: SiteKit) -> Finding:
    try:
        private_key(kit)
    except OSError as error:
        return Finding("fail", f"{kit.key}: {error.strerror}", "put the folder here as the coordinator sent it")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Finding("fail", f"{kit.key} is not a hospital's key", "put the file here that the coordinator sent")
    return Finding("ok", f"the key of {kit.hospital}")


def _authority(kit: SiteKit) -> Finding:
    path = kit.ca_certificate
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except OSError as error:
        return Finding("fail", f"{path}: {error.strerror}", "put the folder here as the coordinator sent it")
    except ValueError:
        return Finding("fail", f"{path} is not a certificate", "put the file here that the coordinator sent")
    if end < datetime.now(UTC):
        return Finding("fail", f"{path} has expired on {end:%Y-%m-%d}", "ask the coordinator for a new kit")
    return Finding("ok", f"the authority of {kit.federation}, until {end:%Y-%m-%d}")


def _secrets(kit: SiteKit) -> Finding:
    if seen := [str(path) for path in readable_by_others(kit.secrets)]:
        return Finding("fail", f"other accounts may read {', '.join(seen)}", f"chmod 600 {' '.join(seen)}")
    return Finding("ok", "keys can be read by this account alone")


def _expiry(kit: SiteKit) -> Finding:
    left = (kit.expires - datetime.now(UTC).date()).days
    renew = "ask the coordinator to renew it, then set `expires` in site.yaml to the new day"
    if left < 0:
        return Finding("fail", f"the server's certificate has ended on {kit.expires}, by site.yaml", renew)
    text = f"the server's certificate holds until {kit.expires}, {left} days"
    return Finding("note", text, renew) if left < SOON_DAYS else Finding("ok", text)


def _port(kit: SiteKit) -> Finding:
    text = f"port {kit.runtime_port} of this machine (runtime_port) is"
    if is_free("127.0.0.1", kit.runtime_port):
        return Finding("ok", f"{text} free")
    return Finding(
        "fail", f"{text} taken", "by this hospital if it is started already; else choose another in site.yaml"
    )


def _server(kit: SiteKit) -> Iterator[Finding]:
    answer = knock(kit)
    if answer.obstacle:
        yield Finding("fail", answer.obstacle)
    else:
        yield Finding("ok", f"{kit.superlink} can be reached over TLS and knows the key of {kit.hospital}")
    if answer.ahead_s is not None:
        text = f"the clock of this machine is {apart(answer.ahead_s)} the server's"
        if abs(answer.ahead_s) > CLOCK_S:
            yield Finding("fail", text, "have it set by NTP, or the server refuses what is signed here")
        else:
            yield Finding("ok", text)


def _data(kit: SiteKit) -> Iterator[Finding]:
    where = "set `data` in site.yaml to the folder that your datasets' folders are in"
    try:
        found = find_all(kit.data)
    except UserError as error:
        yield Finding("fail", str(error), where)
        return
    if not found:
        yield Finding("fail", f"no dataset in {kit.data}", f"{where}; `fedkvasir data card NAME` says how each looks")
    for dataset, root in found:
        try:
            catalog = dataset.read(root)
        except UserError as error:
            yield Finding("fail", str(error))
            continue
        of = f" of {dataset.card.count}" if dataset.card.count else ""
        yield Finding("ok", f"{dataset.name}: {len(catalog.table)}{of} images in {catalog.root}")
        for warning in [*catalog.warnings, *(dataset.verify(catalog.root) if dataset.verify else ())]:
            yield Finding("note", f"{dataset.name}: {warning}")


def _scenario(kit: SiteKit, scenario: Scenario) -> Iterator[Finding]:
    from fedkvasir import wire
    from fedkvasir.plan import make_plan
    from fedkvasir.points import cells
    from fedkvasir.sites.plan import refuse_unfit, too_few

    try:
        for run in [point.scenario for point in cells(scenario)] if scenario.protocol else [scenario]:
            refuse_unfit(run)
        plan = make_plan(scenario, kit.data, only=kit.hospital)
    except UserError as error:
        yield Finding("fail", f"{scenario.name}: {error}")
    else:
        held = plan.samples.groupby("split").agg(images=("sample", "size"), groups=("group", "nunique"))
        counts = ", ".join(f"{split} {row.images} ({row.groups} groups)" for split, row in held.iterrows())
        yield Finding("ok", f"{scenario.name}: images at {kit.hospital}: {counts}")
        yield from (Finding("note", f"{scenario.name}: {warning}") for warning in plan.warnings)
        if why := too_few(plan, kit):
            yield Finding("fail", f"{scenario.name}: {why}")
    for what, sha256 in (*_hashes(scenario), ("app of this fedkvasir", wire.app_sha256())):
        if kit.approve is None or sha256 in kit.approve:
            yield Finding("ok", f"{what}: sha256 {sha256}")
        else:
            yield Finding("fail", f"{what}: sha256 {sha256}", "add it to `approve` in site.yaml, if it may run here")


def _hashes(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What it is, and its sha256, of all that a hospital is asked to run: of a study every run that there can be."""
    from fedkvasir.names import spelled_out
    from fedkvasir.points import in_words
    from fedkvasir.sweep import tried

    if scenario.protocol is None:
        yield f"scenario {scenario.name}", spelled_out(scenario).sha256
        return
    for _, points in tried(scenario.model_copy(update={"sweep": None})):
        for point in (point.seeded(seed) for point in points for seed in scenario.protocol.seeds):
            what = in_words(point.method, point.holdout, point.hospital, point.setting, point.seed)
            yield f"scenario {scenario.name}, {what}", point.scenario.sha256

"""`fedkvasir site ...`: a federation of real hospitals, from the coordinator's side and from a hospital's."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedkvasir.cli_data import DebugOption

site_app = typer.Typer(help="Real hospitals: kits, the check before joining, the start.", no_args_is_help=True)


@site_app.command("kit")
def site_kit(
    federation: Annotated[Path, typer.Argument(help="name, address, listen, valid_days, hospitals (YAML).")],
    out: Annotated[Path, typer.Option(help="The kits go into this folder; what is there stays.")] = Path("kits"),
    renew: Annotated[bool, typer.Option("--renew", help="A new certificate for the server.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="NAME", help="Refuse this hospital from now on.")] = None,
    debug: DebugOption = False,
) -> None:
    """Write what the server and every hospital need to find and trust each other, one folder each."""
    from fedkvasir.errors import UserError
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.sites import kit
    from fedkvasir.sites.federation import Federation, ServerKit

    asked = Federation.load(federation)
    refuse_unwritable(out, "--out")
    copy = f"copy {out / 'server'} to the server's machine, if that is another"
    if renew and revoke:
        raise UserError("--renew and --revoke are two steps; give one of them")
    if revoke:
        kit.revoke(out, revoke)
        typer.echo(f"{revoke} is revoked; next: {copy}; the server refuses its key within seconds")
        return
    if renew:
        expires = kit.renew(asked, out).expires
        typer.echo(f"the server's certificate now holds until {expires}; next: {copy}, and start it again")
        typer.echo(f"hospitals keep their keys; each sets `expires: {expires}` in its site.yaml")
        return
    new, server = kit.write_kits(asked, out), ServerKit.load(out / "server")
    for name in new:
        typer.echo(f"{out / name}: for {name}; hand it over in secret, then delete it here")
    typer.echo(f"{out / 'server'}: for the machine that {asked.address} leads to")
    typer.echo(f"{out / 'ca'}: for you alone, away from the network; --renew needs its ca.key")
    for name in asked.hospitals:
        if name in server.revoked:
            typer.echo(f"{name} is revoked and gets no kit")
    for name in server.hospitals:
        if name not in asked.hospitals:
            typer.echo(f"{name} still takes part; --revoke {name} ends that")
    typer.echo(f"expires {server.expires}; renew before: fedkvasir site kit {federation} --out {out} --renew")


@site_app.command("check")
def site_check(
    folder: Annotated[Path, typer.Argument(help="The hospital's kit.")] = Path(),
    scenario: Annotated[Path | None, typer.Option(help="What would this scenario find here (YAML)?")] = None,
    debug: DebugOption = False,
) -> None:
    """At a hospital, before joining: what would not work here, and how to mend it; exit code 2 if there is anything."""
    from fedkvasir.scenario import load
    from fedkvasir.sites.check import examine
    from fedkvasir.sites.federation import SiteKit

    os.umask(0o077)  # what is prepared here for the scenario are patients' images
    to_mend = 0
    for finding in examine(SiteKit.load(folder), load(scenario) if scenario else None):
        typer.echo(f"{finding.state:5} {finding.what}" + (f"  ->  {finding.mend}" if finding.mend else ""))
        to_mend += finding.state == "fail"
    typer.echo(f"{to_mend} to mend" if to_mend else "nothing to mend")
    raise typer.Exit(2 if to_mend else 0)


@site_app.command("start")
def site_start(
    folder: Annotated[Path, typer.Argument(help="The server's kit or a hospital's.")],
    debug: DebugOption = False,
) -> None:
    """Start the server, or join as a hospital, and go on until Ctrl-C; start.sh does this."""
    from fedkvasir.sites.start import start

    start(folder)

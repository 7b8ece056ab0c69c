"""`permmoe-client ledger`: the signed record of everything that left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer
from rich.table import Table
from rich.text import Text

from permmoe.errors import ConfigurationError
from permmoe.federated.model_chain import parting, rounds_with_two_models
from permmoe.plain_text import plain
from permmoe.runtime.tables import print_whole
from permmoe_client.command_options import SiteOption, ledger_of, say, site_file
from permmoe_client.site import read_site

app = typer.Typer(no_args_is_help=True, help="The signed record of everything that left.")

PARTS = ("modules", "combinations", "counts", "sites")
"""What an entry may list."""


@app.command("verify")
def verify_ledger(context: click.Context, site: SiteOption = None) -> None:
    """Check that nothing in the ledger was edited, removed, moved or cut off, and who signed the models it names.

    The account of the patients who were summed and the list of those who withdrew, which lie beside it, have to be the
    ones that it states.
    """
    from permmoe_client.connection.identity import load_certificate
    from permmoe_client.release.forgetting import certificates_in, check_against_ledger
    from permmoe_client.release.patient_account import PatientAccount
    from permmoe_client.release.withdrawals import WithdrawalList

    config = read_site(site_file(context, site))
    authority = load_certificate(config.coordinator.authority) if config.coordinator else None
    ledger = ledger_of(config)
    say(ledger.state_in_words())
    found = ledger.verify(authority)
    say(f"{len(found.entries)} entries, each signed by this site and following the one before")
    say(
        f"entries 1 to {found.receipted} have the coordinator's receipt: none of these can have been cut off"
        if found.receipted
        else "no receipt of the coordinator yet: an end that was cut off would not be noticed"
    )
    if found.torn_bytes:
        say(
            f"behind them stand {found.torn_bytes} bytes of an entry that was never finished, as a kill or a power cut "
            "leaves them: nothing left with it, and the next entry puts it aside"
        )
    n_patients = len(PatientAccount(ledger).read().account.groups)
    say(f"the account of what was summed is whole: {n_patients} patients under pseudonyms")
    withdrawals = WithdrawalList(ledger)
    withdrawals.verify(found.entries)
    if any(entry.kind == "withdrawal" for entry in found.entries):
        listed = withdrawals.read()
        whole = "; the hospital withdrew" if listed.is_whole_site else ""
        say(f"the list of {len(listed.subjects)} withdrawn patients is whole, and nobody was taken off it{whole}")
    for entry, certificate in certificates_in(found.entries):
        if authority:
            check_against_ledger(certificate, config.name, found.entries, found.chains, authority)
        borne = "borne out by this ledger" if authority else "not checked, since no authority is known"
        forgets = certificate.said.forgets
        say(
            f"entry {entry.sequence}: study {certificate.said.study[:8]} forgets the withdrawal of "
            f"{forgets.withdrawal[:16]}, model {certificate.said.model[:16]}: {borne}"
        )
    for study, chain in found.chains.items():
        head, again = chain.signed.head, rounds_with_two_models(chain.links)
        signed = "signed by the coordinator" if authority else "its signature not checked, since no authority is known"
        say(f"study {study[:8]}: {head.length} models announced, head {head.digest[:16]}, {signed}")
        if again:
            say(f"  {again} of them for work that another model was announced for: ask the coordinator why")


@app.command("compare")
def compare_ledgers(
    context: click.Context,
    other: Annotated[Path, typer.Argument(help="Another hospital's ledger.jsonl.")],
    site: SiteOption = None,
) -> None:
    """Hold the models that this site was told of against those that another hospital was told of."""
    from permmoe_client.connection.identity import load_certificate
    from permmoe_client.release.announced_models import chains_in

    config = read_site(site_file(context, site))
    ledger = ledger_of(config)
    assert config.coordinator
    authority = load_certificate(config.coordinator.authority)
    here, there = ledger.verify(authority).chains, chains_in(other, authority)
    parted = False
    for study in sorted({*here} & {*there}):
        one, two = here[study].links, there[study].links
        if (place := parting(one, two)) is None:
            say(f"study {study[:8]}: one story, as far as the first {min(len(one), len(two))} models")
            continue
        parted, work = True, one[place]
        say(
            f"study {study[:8]}: TWO STORIES, both signed by the coordinator. They part at model {place + 1}: here "
            f"{work.model[:16]} for {work.purpose} in round {work.round}, there {two[place].model[:16]} for "
            f"{two[place].purpose} in round {two[place].round}. Keep both ledgers"
        )
    if not {*here} & {*there}:
        say("the two ledgers have no study in common of which models were announced")
    raise typer.Exit(int(parted))


@app.command("countersign")
def countersign_certificate(
    context: click.Context,
    certificate: Annotated[
        Path, typer.Argument(help="certificate.json of the coordinator's permmoe-server study certify.")
    ],
    site: SiteOption = None,
) -> None:
    """Check the coordinator's certificate that a model was trained anew without whom this hospital withdrew.

    It is held against this ledger, which shows whether it is true, and kept there as a signed entry.
    """
    from permmoe.federated.forgetting_certificate import parse_certificate
    from permmoe_client.connection.identity import load_certificate
    from permmoe_client.release.forgetting import certificate_facts, certificates_in, check_against_ledger

    config = read_site(site_file(context, site))
    ledger = ledger_of(config)
    assert config.coordinator
    try:
        given = parse_certificate(certificate.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"{certificate} cannot be read ({error.strerror}); name the coordinator's file"
        ) from None
    authority = load_certificate(config.coordinator.authority)
    found = ledger.verify(authority)
    check_against_ledger(given, config.name, found.entries, found.chains, authority)
    kept = [entry for entry, earlier in certificates_in(found.entries) if earlier == given]
    if kept:
        say(f"entry {kept[0].sequence} of the ledger has this certificate already; nothing was changed")
        return
    head = ledger.append("certificate", certificate_facts(given))
    forgets = given.said.forgets
    say(
        f"true, as far as this ledger shows, and countersigned as entry {head.sequence}: model "
        f"{given.said.model[:16]} of round {given.said.last_round} goes on from the model before round "
        f"{forgets.first_round}, when this site had not trained"
    )


@app.command("show")
def show_ledger(
    context: click.Context,
    site: SiteOption = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest entries.")] = 20,
) -> None:
    """List what left, newest last."""
    table = Table(
        "entry", "time (UTC)", "what", "round", "bytes", "parts", "study", box=None, caption="parts: modules of a "
        "training, combinations of an evaluation, numbers of a survey, sites of a sum", caption_justify="left",
    )  # fmt: skip
    for entry in list(ledger_of(read_site(site_file(context, site))).entries())[-last:]:
        facts = entry.facts
        n_parts = next((len(facts[name]) for name in PARTS if facts.get(name)), 0)
        table.add_row(
            str(entry.sequence),
            Text(plain(entry.time[:19])),
            Text(plain(entry.kind)),
            Text(plain(str(facts.get("round", "")))),
            f"{int(facts['bytes']):,}" if "bytes" in facts else "",
            str(n_parts or ""),
            Text(plain(f"{str(facts.get('study', ''))[:8]} {facts.get('study_name', '')}")),
        )
    print_whole(table)

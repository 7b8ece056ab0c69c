"""What a hospital's own ledger says of the coordinator's certificate that a model was trained anew without somebody.

The coordinator's signature is the lesser half. A ledger has each study's chain of models, signed, and an entry for each
of the site's own trainings, so it shows by itself that the model which the follow-up study went on from is older than
the site's first training, and that the site trained in the follow-up after its withdrawal, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509

from permmoe.federated.audit import AuditError, Entry
from permmoe.federated.forgetting_certificate import Certificate, certificate_from, check_certificate
from permmoe.federated.model_chain import Link, head_of
from permmoe_client.release.announced_models import AnnouncedModels


def check_against_ledger(
    certificate: Certificate,
    site: str,
    entries: Sequence[Entry],
    chains: Mapping[str, AnnouncedModels],
    authority: x509.Certificate,
) -> None:
    """Raise AuditError where a certificate is not this site's, or the site's ledger does not bear it out."""
    check_certificate(certificate, authority)
    said = certificate.said
    forgets = said.forgets
    # "A certificate is of this hospital's withdrawal."
    if forgets.site != site:
        raise AuditError(f"the certificate is of site {forgets.site}")
    withdrawal = next((entry for entry in entries if entry.digest() == forgets.withdrawal), None)
    if withdrawal is None or withdrawal.kind != "withdrawal":
        raise AuditError("the certificate names a withdrawal that this ledger does not have")
    if bool(withdrawal.facts.get("whole_site")) != forgets.is_whole_site:
        raise AuditError("the certificate is of the whole hospital's withdrawal, or of patients', and the entry is not")
    # "The follow-up begins with a model that was announced, and that is older than this site's first training."
    begun = Link(forgets.first_round, "training", forgets.model_sha256)
    if not any(begun in chains[study].links for study in forgets.studies if study in chains):
        raise AuditError("the model that the follow-up study began with was never announced to this site")
    trained = [entry for entry in entries if entry.kind == "training" and entry.facts.get("study") in forgets.studies]
    if any(int(entry.facts["round"]) < forgets.first_round for entry in trained):
        raise AuditError("this site trained before the round that the follow-up study goes on from: its model saw them")
    # "In the follow-up nobody who withdrew trained."
    again = [entry for entry in entries if entry.kind == "training" and entry.facts.get("study") == said.study]
    if again and (forgets.is_whole_site or any(entry.sequence < withdrawal.sequence for entry in again)):
        raise AuditError("this site trained in the follow-up study before the withdrawal, or though it had withdrawn")
    # "The chain is the one that this site was told of", as far as it was told.
    if said.chain.study != said.study:
        raise AuditError("the certificate's chain of models is of another study")
    if known := chains.get(said.study):
        links = known.links
        if len(links) > said.chain.length or (
            len(links) == said.chain.length and head_of(said.study, links) != said.chain
        ):
            raise AuditError("the certificate's chain of models is not the one that this site was told of")


def certificates_in(entries: Sequence[Entry]) -> tuple[tuple[Entry, Certificate], ...]:
    """The certificates that a ledger countersigned, each with its entry. Raises AuditError for a damaged one."""
    return tuple(
        (entry, certificate_from(entry.facts.get("certificate"))) for entry in entries if entry.kind == "certificate"
    )


def certificate_facts(certificate: Certificate) -> dict[str, Any]:
    """What the ledger's entry says of a certificate: all of it, so that the entry is the countersigned certificate."""
    return {"study": certificate.said.study, "certificate": certificate.values()}

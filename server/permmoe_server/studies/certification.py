"""The certificate of a follow-up study: its model never saw who withdrew (permmoe.federated.forgetting_certificate)."""

from __future__ import annotations

from pathlib import Path

from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.forgetting_certificate import Certificate, Forgotten, certify
from permmoe.federated.model_chain import Link, head_of
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.runtime.checkpoint_card import has_checkpoint, read_checked
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.administration import server_identity
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.model_register import MODELS_FILE, read_links
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.study_folder import Study

CERTIFICATE_FILE = "certificate.json"


def certified(folder: FederationFolder, study: Study) -> Path:
    """Write the certificate into the study's folder, and return its path.

    Raises ConfigurationError for a study that forgets nobody, or has not finished; DataError where its record or its
    chain shows somebody whom it was to be without, or does not show its model.
    """
    forgets = study.plan.forgets
    if forgets is None:
        raise ConfigurationError(
            f"study {study.plan.name} forgets nobody; permmoe-server study forget makes a study that does"
        )
    records = RoundLog(study.rounds).read()
    done = sum(record.is_aggregated or record.is_used_up for record in records)
    if done < study.plan.federation.rounds or not has_checkpoint(study.model):
        raise ConfigurationError(
            f"study {study.plan.name} has finished {done} of {study.plan.federation.rounds} rounds; certify it when it "
            "has finished"
        )
    # "No round of it has an update of the hospital that withdrew, nor has the part that was carried over."
    before = [record for record in records if forgets.is_whole_site or record.round < forgets.first_round]
    if found := [record.round for record in before if record.is_aggregated and forgets.site in record.trained]:
        raise DataError(
            f"{forgets.site} took part in round {found[0]} of study {study.plan.name}: nothing is certified"
        )
    links = read_links(study.folder / MODELS_FILE)
    if Link(forgets.first_round, "training", forgets.model_sha256) not in links:
        raise DataError(f"round {forgets.first_round} did not begin with the model that never saw them: not certified")
    model, tensors_sha256, number = _kept_model(study)
    if not any(link.model == model for link in links):
        raise DataError(f"the model in {study.model} is none that the study announced; take it from a back-up")
    said = Forgotten(forgets, study.plan.digest(), head_of(study.plan.digest(), links), model, tensors_sha256, number)
    path = study.folder / CERTIFICATE_FILE
    write_file(path, _signed(folder, said).line(), mode=PUBLIC_MODE)
    return path


def _kept_model(study: Study) -> tuple[str, str, int]:
    """Digests of the study's model, as it travels and of its file of tensors, and the round that made it."""
    read_checked(study.model)
    tensors, card = load_checkpoint(study.model)
    weights = ModuleLayout.of(PerMMoE(study.plan.model)).flatten_all(tensors)
    return PackedModel.of(weights, study.plan.federation.wire).digest(), card["tensors_sha256"], int(card["round"])


def _signed(folder: FederationFolder, said: Forgotten) -> Certificate:
    server = server_identity(folder)
    return certify(said, server.key, server.certificate, server.certificate_pem.decode())

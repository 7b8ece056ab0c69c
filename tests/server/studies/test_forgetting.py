"""A study that forgets somebody ends with the model of a federation that never had them, and proves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.audit import AuditError
from permmoe.federated.forgetting_certificate import Certificate, certify, parse_certificate
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe_client.cli import app as client
from permmoe_client.participation.site_visits import parts_of
from permmoe_client.release.consent import study_in_words
from permmoe_client.release.forgetting import check_against_ledger
from permmoe_client.release.withdrawals import NOBODY_ABSENT
from permmoe_client.site import read_site
from permmoe_server.cli import app as server
from permmoe_server.provisioning.authority import Identity, load_certificate, read_identity
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.studies import registry
from permmoe_server.studies.certification import CERTIFICATE_FILE, certified
from permmoe_server.studies.forgetting import FollowUp, forget
from permmoe_server.studies.study_folder import current_study
from tests.support.forgetting import ForgettingFederation, without_rows
from tests.support.tiny_federation import MODEL, tiny_plan

NAMES = ("north", "south", "west")
FIVE = ("north", "south", "west", "east", "mid")
NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)


def plan_of(**settings: object) -> RoundPlan:
    return tiny_plan(**{"rounds": 3, "min_sites": 2, "max_failed_rounds": 1, **settings})


def weights(federation: ForgettingFederation, plan: RoundPlan) -> Mapping[str, torch.Tensor]:
    kept, _ = load_checkpoint(federation.study(plan).folder / "last")
    return kept


def assert_same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def trained(folder: Path, plan: RoundPlan, names: tuple[str, ...] = NAMES, **joins: int) -> ForgettingFederation:
    """A federation whose study has finished and whose model is current."""
    federation = ForgettingFederation.of(folder, names, plan)
    federation.joins = joins
    federation.run(plan)
    version = registry.register(federation.deployment, federation.study(plan).model, NOW)
    registry.promote(federation.deployment, version.name, NOW)
    return federation


def forgotten(federation: ForgettingFederation, plan: RoundPlan, site: str, digest: str, *, whole: bool) -> FollowUp:
    return forget(federation.deployment, federation.study(plan), site, digest, NOW, is_whole_site=whole)


def said(program: object, *words: str) -> Result:
    return CliRunner().invoke(program, [*words])  # type: ignore[arg-type]


def patients_of_south(federation: ForgettingFederation) -> tuple[list[str], dict[str, str]]:
    parts = dict(parts_of(read_site(federation.sites["south"]), MODEL, None, NOBODY_ABSENT))
    return [subject for subject, part in parts.items() if part == "train"][:5], parts


def test_the_follow_up_without_patients_is_the_study_of_a_hospital_that_never_had_them_bit_by_bit(
    tmp_path: Path,
) -> None:
    plan = plan_of()
    federation = trained(tmp_path / "had", plan)
    gone, parts = patients_of_south(federation)
    made = forgotten(federation, plan, "south", federation.withdraw("south", *gone), whole=False)
    new = made.study.plan
    assert new.forgets and new.forgets.first_round == 1 and current_study(federation.deployment) == made.study
    federation.run(new)
    never = ForgettingFederation.of(tmp_path / "never", NAMES, plan)
    without_rows(never, "south", {*gone}, parts)
    never.run(plan)
    assert_same(weights(federation, new), weights(never, plan))
    assert not all(torch.equal(one, weights(federation, new)[name]) for name, one in weights(federation, plan).items())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_the_follow_up_without_a_hospital_is_the_study_of_a_federation_that_never_had_it(
    secure: bool, tmp_path: Path
) -> None:
    """Secure: another hospital is left out beside it, since sums that differ by one would show that one."""
    settings = {"secure": True, "min_sites": 3} if secure else {}
    names, plan = (FIVE, plan_of(**settings)) if secure else (NAMES, plan_of())
    federation = trained(tmp_path / "had", plan, names)
    made = forgotten(federation, plan, "west", federation.withdraw("west"), whole=True)
    assert made.left_out == (("south",) if secure else ())
    records = federation.run(made.study.plan)
    left = [name for name in names if name not in ("west", *made.left_out)]
    assert all({s["site"] for s in r["sites"] if s["rejected"] is None} == {*left} for r in records)
    assert all("west" not in [s["site"] for s in record["sites"]] for record in records)
    never = ForgettingFederation.of(tmp_path / "never", tuple(left), plan)
    never.run(plan)
    assert_same(weights(federation, made.study.plan), weights(never, plan))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_a_hospital_that_joined_late_costs_only_the_rounds_from_its_first_on(secure: bool, tmp_path: Path) -> None:
    settings = {"secure": True, "min_sites": 3} if secure else {}
    names = ("north", "south", "mid", "east", "west") if secure else NAMES
    plan = plan_of(rounds=4, server_optimiser="fedadam", server_learning_rate=0.1, **settings)
    joins = {"west": 3, "east": 3} if secure else {"west": 3}
    federation = trained(tmp_path / "had", plan, names, **joins)
    before = federation.study(plan).folder / "joined" / "0003"
    assert before.is_dir() and [p.name for p in before.parent.iterdir()] == ["0003"]
    made = forgotten(federation, plan, "west", federation.withdraw("west"), whole=True)
    assert made.study.plan.forgets and made.study.plan.forgets.first_round == 3
    records = federation.run(made.study.plan)
    assert [record["round"] for record in records if record["is_aggregated"]] == [1, 2, 3, 4]
    stay = tuple(name for name in names if name not in ("west", *made.left_out))
    assert made.left_out == (("east",) if secure else ()), "whom no sum of the first rounds was over is left out first"
    never = ForgettingFederation.of(tmp_path / "never", stay, plan)
    never.run(plan)
    assert_same(weights(federation, made.study.plan), weights(never, plan))
    path = certified(federation.deployment, made.study)
    result = said(client, "ledger", "countersign", str(path), "--site", str(federation.sites["west"]))
    assert result.exit_code == 0, result.exception
    assert "goes on from the model before round 3, when this site had not trained" in result.output


def test_models_that_saw_them_are_used_no_more_and_the_newest_that_did_not_is_current(tmp_path: Path) -> None:
    plan = plan_of(rounds=1)
    federation = ForgettingFederation.of(tmp_path, NAMES, plan)
    folder = federation.deployment
    before = plan_of(rounds=1, local_epochs=3)
    federation.joins = {"west": 2}
    federation.run(before)
    clean = registry.register(folder, federation.study(before).model, NOW).name
    federation.joins = {}
    federation.run(plan)
    saw = registry.register(folder, federation.study(plan).model, NOW).name
    for name in (clean, saw):
        registry.promote(folder, name, NOW)
    result = said(server, "study", "forget", str(folder.path), "west", "--withdrawal", federation.withdraw("west"))
    assert result.exit_code == 0, result.exception
    assert f"used no more, since they have seen them: {saw}" in result.output
    assert "begins with its first weights" in result.output and "rounds to run: 1" in result.output
    known = registry.read_registry(folder)
    assert known.current == clean and set(known.withdrawn) == {saw} and "withdrew" in known.history[-1]
    assert "withdrawn" in said(server, "models", "list", str(folder.path)).output
    for words in (("promote", str(folder.path), saw), ("export", str(folder.path), "--version", saw, "--out", "x")):
        assert f"{saw} was withdrawn: it has seen west" in str(said(server, "models", *words).exception)
    with pytest.raises(ConfigurationError, match="no model was current before"):
        registry.rollback(folder, NOW)


def test_studies_that_go_on_from_a_forgotten_one_have_seen_them_too_and_the_follow_up_has_not(tmp_path: Path) -> None:
    plan = plan_of(rounds=1)
    federation = trained(tmp_path, plan)
    folder = federation.deployment
    said(server, "study", "extend", str(folder.path), "1")
    longer = current_study(folder)
    assert longer
    federation.run(longer.plan)
    registry.register(folder, longer.model, NOW)
    gone, _ = patients_of_south(federation)
    digest = federation.withdraw("south", *gone)
    made = forgotten(federation, longer.plan, "south", digest, whole=False)
    assert made.withdrawn == ("v0001", "v0002") and plan.digest() in made.study.plan.forgets.studies  # type: ignore[union-attr]
    federation.run(made.study.plan)
    assert registry.register(folder, made.study.model, NOW).name == "v0003"
    again = forgotten(federation, plan, "south", digest, whole=False)
    assert "v0003" not in again.withdrawn and "v0003" not in registry.read_registry(folder).withdrawn
    assert again.elsewhere == (), "the follow-up forgets the same"
    later = forgotten(federation, plan, "south", "7" * 64, whole=False)
    assert later.elsewhere == (f"study ({made.study.plan.digest()[:16]})",), "it does not forget who withdraws later"


def test_a_follow_up_waits_for_approvals_and_says_whom_it_forgets(tmp_path: Path) -> None:
    plan = plan_of(rounds=1)
    federation = trained(tmp_path, plan)
    made = forgotten(federation, plan, "west", federation.withdraw("west"), whole=True)
    with pytest.raises(Exception, match="usable replies"):
        federation.run(made.study.plan, is_approved=False)
    words = "\n".join(
        s for one in study_in_words(made.study.plan, read_site(federation.sites["north"])) for s in one.sentences
    )
    assert f"Study {plan.digest()[:16]} is trained anew without hospital west, which withdrew: from its first" in words


def test_bad_input_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    plan = plan_of(rounds=1)
    federation = trained(tmp_path, plan)
    folder = federation.deployment
    before = sorted(path for path in folder.path.rglob("*") if path.is_file())
    digest = "0" * 64
    with pytest.raises(ConfigurationError, match=r"east took part in no round .*north, south, west did"):
        forgotten(federation, plan, "east", digest, whole=True)
    with running(folder), pytest.raises(ConfigurationError, match="stop it first"):
        forgotten(federation, plan, "west", digest, whole=True)
    both = said(server, "study", "forget", str(folder.path), "west", "--patients", digest, "--withdrawal", digest)
    assert "not both" in str(both.exception)
    short = said(server, "study", "forget", str(folder.path), "west", "--patients", "abc")
    assert "'abc' is no digest of 64 characters" in str(short.exception)
    assert "forgets nobody" in str(said(server, "study", "certify", str(folder.path)).exception)
    assert [p for p in sorted(folder.path.rglob("*")) if p.is_file() and p.name != ".running"] == before
    assert not registry.read_registry(folder).withdrawn
    made = forgotten(federation, plan, "west", digest, whole=True)
    with pytest.raises(ConfigurationError, match="is there already; run it"):
        forgotten(federation, plan, "west", digest, whole=True)
    with pytest.raises(ConfigurationError, match="has finished 0 of 1 rounds"):
        certified(folder, made.study)


def test_a_secure_study_that_would_be_over_too_few_hospitals_is_not_made(tmp_path: Path) -> None:
    plan = plan_of(rounds=1, secure=True, min_sites=3)
    federation = trained(tmp_path, plan, FIVE[:4])
    with pytest.raises(ConfigurationError, match="the secure sum is over 2 sites, and 3 are needed"):
        forgotten(federation, plan, "west", federation.withdraw("west"), whole=True)


def test_attack_a_coordinator_that_forgets_the_other_studys_sums_gets_no_sum_without_one_hospital(
    tmp_path: Path,
) -> None:
    """It asks the same hospitals but one; what they sent before less what they would send is that one's numbers."""
    plan = plan_of(rounds=1, secure=True, min_sites=3)
    federation = trained(tmp_path, plan, FIVE)
    made = forgotten(federation, plan, "west", federation.withdraw("west"), whole=True)
    (made.study.folder / "sums.jsonl").unlink()
    with pytest.raises(Exception, match="usable replies"):
        federation.run(made.study.plan)
    [record] = [json.loads(line) for line in made.study.rounds.read_text().splitlines()]
    assert not record["is_aggregated"]
    assert not any(e.facts["study"] == made.study.plan.digest() for e in federation.entries("north", "sum"))


def test_a_checkpoint_that_is_not_the_announced_model_is_not_gone_on_from(tmp_path: Path) -> None:
    plan = plan_of(rounds=3)
    federation = trained(tmp_path, plan, west=3)
    folder = federation.study(plan).folder
    before = folder / "joined" / "0003"
    tensors, card = load_checkpoint(before)
    save_checkpoint(before, {name: tensor + 0.01 for name, tensor in tensors.items()}, card)
    with pytest.raises(DataError, match="is not the one that its sites were sent"):
        forgotten(federation, plan, "west", "", whole=True)
    for file in (folder / "last").iterdir():
        (before / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="not of the round before round 3"):
        forgotten(federation, plan, "west", "", whole=True)
    assert len(list(folder.parent.glob("*/plan.json"))) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ForgettingFederation, Certificate, RoundPlan]:
    """A finished follow-up without patients of south, and its certificate."""
    plan = plan_of(rounds=1)
    federation = trained(tmp_path_factory.mktemp("certified"), plan)
    gone, _ = patients_of_south(federation)
    made = forgotten(federation, plan, "south", federation.withdraw("south", *gone), whole=False)
    federation.run(made.study.plan)
    result = said(server, "study", "certify", str(federation.deployment.path))
    assert result.exit_code == 0 and CERTIFICATE_FILE in result.output
    return federation, parse_certificate((made.study.folder / CERTIFICATE_FILE).read_bytes()), made.study.plan


def checked(federation: ForgettingFederation, certificate: Certificate, site: str = "south") -> None:
    authority = load_certificate(federation.deployment.authority)
    found = federation.ledger(site).verify(authority)
    check_against_ledger(certificate, site, found.entries, found.chains, authority)


def server_of(federation: ForgettingFederation) -> Identity:
    return read_identity(federation.deployment.server, federation.deployment.server_key)


def signed(federation: ForgettingFederation, certificate: Certificate, **changes: object) -> Certificate:
    """Another certificate, which the coordinator signs as well."""
    own = server_of(federation)
    said = replace(certificate.said, **changes)  # type: ignore[arg-type]
    return certify(said, own.key, own.certificate, own.certificate_pem.decode())


def test_the_hospital_countersigns_a_certificate_that_its_ledger_bears_out_and_verify_checks_it_again(
    certificate: tuple[ForgettingFederation, Certificate, RoundPlan], tmp_path: Path
) -> None:
    federation, given, _ = certificate
    (tmp_path / "certificate.json").write_bytes(given.line())
    words = ("ledger", "countersign", str(tmp_path / "certificate.json"), "--site", str(federation.sites["south"]))
    assert "true, as far as this ledger shows, and countersigned" in said(client, *words).output
    assert "already; nothing was changed" in said(client, *words).output
    assert len(federation.entries("south", "certificate")) == 1
    result = said(client, "ledger", "verify", "--site", str(federation.sites["south"]))
    assert result.exit_code == 0 and "borne out by this ledger" in result.output
    (tmp_path / "certificate.json").write_bytes(given.line()[:-7])
    assert "damaged, or none" in str(said(client, *words).exception)
    assert "cannot be read" in str(said(client, "ledger", "countersign", "absent", *words[3:]).exception)


def test_attack_a_certificate_that_anybody_else_signed_or_changed(
    certificate: tuple[ForgettingFederation, Certificate, RoundPlan], tmp_path: Path
) -> None:
    federation, given, _ = certificate
    checked(federation, given)
    with pytest.raises(AuditError, match="signature of the certificate"):
        checked(federation, replace(given, said=replace(given.said, last_round=7)))
    other = ForgettingFederation.of(tmp_path, NAMES[:1], plan_of(rounds=1))
    own = server_of(other)
    with pytest.raises(AuditError, match="not of this federation's server"):
        checked(federation, certify(given.said, own.key, own.certificate, own.certificate_pem.decode()))


def test_attack_a_coordinators_false_word_is_not_borne_out_by_the_ledger(
    certificate: tuple[ForgettingFederation, Certificate, RoundPlan],
) -> None:
    federation, given, _ = certificate
    forgets = given.said.forgets
    with pytest.raises(AuditError, match="the certificate is of site south"):
        checked(federation, given, "north")
    for changes, words in (
        ({"withdrawal": "0" * 64}, "a withdrawal that this ledger does not have"),
        ({"withdrawal": federation.entries("south", "training")[0].digest()}, "a withdrawal that this ledger does not"),
        ({"is_whole_site": True}, "and the entry is not"),
        ({"model_sha256": "1" * 64}, "never announced to this site"),
        ({"first_round": 2}, "never announced to this site"),
    ):
        with pytest.raises(AuditError, match=words):
            checked(federation, signed(federation, given, forgets=forgets.model_copy(update=changes)))
    with pytest.raises(AuditError, match="chain of models is not the one"):
        checked(federation, signed(federation, given, chain=replace(given.said.chain, digest="2" * 64)))
    with pytest.raises(AuditError, match="chain of models is of another study"):
        checked(federation, signed(federation, given, chain=replace(given.said.chain, study="3" * 64)))


def test_attack_the_old_study_passed_for_one_that_forgot(
    certificate: tuple[ForgettingFederation, Certificate, RoundPlan],
) -> None:
    """In the study that is named as the follow-up the hospital trained before its patients withdrew."""
    federation, given, _ = certificate
    authority = load_certificate(federation.deployment.authority)
    old = given.said.forgets.studies[0]
    head = federation.ledger("south").verify(authority).chains[old].signed.head
    with pytest.raises(AuditError, match="trained in the follow-up study before the withdrawal"):
        checked(federation, signed(federation, given, study=old, chain=head))

"""What a lying coordinator asks of an honest site, and what it is told about few patients: nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import PermmoeError
from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.instructions import Instruction, Part, read_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply
from permmoe.training.seeds import make_model
from permmoe_client.participation.cluster_centres import CentresStay
from permmoe_client.participation.local_round import evaluate_round, train_round
from permmoe_client.participation.running_site import RunningSite, Workshop
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import send_evaluation, send_training
from permmoe_client.site import ReleasePolicy, SiteConfig
from tests.support.site_messages import WEIGHTS, instruction
from tests.support.tiny_federation import MODEL, tiny_plan

KEY = ec.generate_private_key(ec.SECP384R1())
ALL, NO_FLUID, CLINICAL = 0b111, 0b101, 0b001
LEAST = 5
PLAN = tiny_plan(min_cell_count=LEAST)
CRAFTED = {**WEIGHTS, "encoder/fluid": 1e3 * torch.ones_like(WEIGHTS["encoder/fluid"])}


def visits(*observed: int, outcomes: Mapping[int, float] | None = None, first: int = 0) -> VisitData:
    """Visits of synthetic patients in every part of the split alike; every part has these observed sets."""
    n = 3 * len(observed)
    parts = ("train", "validation", "test")
    table = [
        Visit(f"{part}-{first + i}", "north", "bl", 1.0, (outcomes or {}).get(i, 0.5), 24.0, split=part)
        for part in parts
        for i in range(len(observed))
    ]
    has = torch.tensor([[mask >> m & 1 == 1 for m in range(3)] for mask in observed]).repeat(3, 1)
    rng = torch.Generator().manual_seed(n + first)
    return VisitData(
        visits=VisitTable(tuple(table)),
        names=MODEL.names,
        observed=has,
        baseline=torch.ones(n),
        target=torch.tensor([visit.delta_cdrsb for visit in table]),
        stored_rows=torch.where(has, has.long().cumsum(0) - 1, -1),
        inputs={
            modality.name: MemoryRows(torch.randn(n, len(modality.columns), generator=rng))
            for modality in MODEL.modalities
        },
    )


class Hospital:
    """A site with a ledger, as it is after every restart."""

    def __init__(self, folder: Path, data: VisitData, least: int = LEAST) -> None:
        self.settings = SiteConfig(
            name="north",
            manifest=folder / "none.csv",
            cache=folder,
            release=ReleasePolicy(min_cell_count=least, cluster_centres=True),
        )
        self.ledger = Ledger(folder / "ledger", "north", KEY)
        self.site = RunningSite(self.settings, self.ledger, Workshop(lambda *_: data))

    def sums(
        self,
        number: int,
        part: Part = "validation",
        weights: Mapping[str, torch.Tensor] = WEIGHTS,
        plan: RoundPlan = PLAN,
    ) -> dict[str, ErrorSums]:
        content = instruction(plan, number, weights, part=part)
        asked: Instruction = read_instruction(content)
        reply = evaluate_round(asked, content, self.site)
        send_evaluation(reply, asked, self.settings.release, self.ledger)
        return dict(reply.sums)

    def training(
        self, number: int, weights: Mapping[str, torch.Tensor] = WEIGHTS, plan: RoundPlan = PLAN
    ) -> TrainReply:
        content = instruction(plan, number, weights)
        asked = read_instruction(content)
        reply = train_round(asked, content, self.site)
        send_training(reply, asked, self.settings.release, self.ledger)
        return reply


def differences(sums: Mapping[str, ErrorSums]) -> set[int]:
    """By how many patients the sums of nested combinations differ."""
    nested = [
        (one, other) for one, other in itertools.permutations(sums, 2) if set(one.split("+")) > set(other.split("+"))
    ]
    return {sums[other].n - sums[one].n for one, other in nested}


def assert_no_few_left(first: Mapping[str, ErrorSums], later: Mapping[str, ErrorSums]) -> None:
    left = [sums.n - later[name].n if name in later else sums.n for name, sums in first.items()]
    assert later and all(n == 0 or n >= LEAST for n in left)
    assert all(n == 0 or n >= LEAST for n in differences(later))


def assert_refused(question: object, error: str) -> None:
    with pytest.raises(PermmoeError) as caught:
        question()  # type: ignore[operator]
    assert type(caught.value).__name__ == error


def test_attack_nested_combinations_differ_by_no_single_patient(tmp_path: Path) -> None:
    """21 patients have clinical and gene data, 20 of them fluid data too; the last one's outcome is 4.25 points."""
    data = visits(*[ALL] * 20, NO_FLUID, outcomes={20: 4.25})
    sums = Hospital(tmp_path, data).sums(1)
    assert len(sums) == 7 and differences(sums) == {0}
    assert sums["clinical+gene"].target - sums["clinical+fluid+gene"].target == 0


def test_attack_nested_combinations_differ_by_no_single_patient_in_the_means_of_the_first_round(tmp_path: Path) -> None:
    plan = tiny_plan(min_cell_count=LEAST, centring_round=True)
    reply = Hospital(tmp_path, visits(*[ALL] * 20, NO_FLUID)).training(1, plan=plan)
    assert all(update.support in (0, 20) for update in reply.updates.values())


def test_attack_rounds_that_the_plan_does_not_have(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, visits(*[ALL] * 20))
    for number in range(1_000_001, 1_000_031):
        assert_refused(lambda number=number: hospital.sums(number), "QueryRefused")
    for number in (1_000_001, 0, -1, 4):
        assert_refused(lambda number=number: hospital.sums(number), "QueryRefused")
        assert_refused(lambda number=number: hospital.training(number), "QueryRefused")


def test_attack_evaluations_that_the_plan_does_not_have(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, visits(*[ALL] * 20))
    every_second = tiny_plan(min_cell_count=LEAST, evaluate_every=2)
    assert_refused(lambda: hospital.sums(1, plan=every_second), "QueryRefused")
    assert_refused(lambda: hospital.sums(2, "test"), "QueryRefused")
    assert_refused(lambda: hospital.sums(1, plan=tiny_plan(evaluate_every=0)), "QueryRefused")


def test_attack_thirty_models_on_the_same_patients(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, visits(*[ALL] * 20))
    hospital.sums(1)
    for n in range(30):
        other = {**WEIGHTS, "head": WEIGHTS["head"] + 1e-3 * (n + 1)}
        assert_refused(lambda other=other: hospital.sums(1, weights=other), "QueryRefused")


def test_attack_rounds_out_of_their_order_also_after_a_restart(tmp_path: Path) -> None:
    data = visits(*[ALL] * 20)
    Hospital(tmp_path, data).training(2)
    for hospital in (Hospital(tmp_path, data), Hospital(tmp_path, data)):
        assert_refused(lambda hospital=hospital: hospital.training(1), "QueryRefused")
        assert_refused(lambda hospital=hospital: hospital.sums(1), "QueryRefused")
        hospital.sums(2)


def test_the_newest_round_may_be_asked_about_again_and_has_the_same_answer(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, visits(*[ALL] * 20, *[NO_FLUID] * 7))
    first = hospital.training(1), hospital.sums(1)
    again = hospital.training(1), hospital.sums(1)
    assert first[1] == again[1]
    for module, update in first[0].updates.items():
        assert torch.equal(update.weighted_delta, again[0].updates[module].weighted_delta)


def test_attack_a_crafted_model(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, visits(*[ALL] * 20))
    assert_refused(lambda: hospital.sums(1, weights=CRAFTED), "ImplausibleModel")
    assert_refused(lambda: hospital.training(1, weights=CRAFTED), "ImplausibleModel")
    assert_refused(lambda: hospital.training(2, weights=CRAFTED), "ImplausibleModel")
    not_initial = {**WEIGHTS, "head": WEIGHTS["head"] + 0.1}
    assert_refused(lambda: hospital.training(1, weights=not_initial), "ImplausibleModel")
    hospital.training(2, weights=not_initial)


def test_attack_what_one_patient_trained(tmp_path: Path) -> None:
    plan = tiny_plan(min_cell_count=LEAST)
    plan = plan.model_copy(update={"train": plan.train.model_copy(update={"modality_dropout": 0.0})})
    updates = Hospital(tmp_path, visits(*[ALL] * 20, NO_FLUID, *[CLINICAL] * 6)).training(1, plan=plan).updates
    assert "bank/clinical+gene/fluid" not in updates and "bank/clinical/fluid" in updates
    lax = Hospital(tmp_path / "lax", visits(*[ALL] * 20, NO_FLUID, *[CLINICAL] * 6), least=1)
    lax_plan = plan.model_copy(update={"federation": plan.federation.model_copy(update={"min_cell_count": 1})})
    assert lax.training(1, plan=lax_plan).updates["bank/clinical+gene/fluid"].support == 1


def test_attack_experts_that_few_patients_trained(tmp_path: Path) -> None:
    four, nine = Hospital(tmp_path / "4", visits(*[ALL] * 4)), Hospital(tmp_path / "9", visits(*[ALL] * 9))
    assert four.training(1).updates == {}
    assert any(module.startswith("expert/") for module in nine.training(1).updates)


def clustered_study() -> tuple[RoundPlan, dict[str, torch.Tensor]]:
    """A plan whose model completes what is missing from clusters, and the weights that it begins with."""
    plan = tiny_plan(min_cell_count=LEAST, centring_round=True)
    model = plan.model.model_copy(update={"bank": "clusters"})
    plan = RoundPlan.model_validate({**plan.model_dump(), "model": model.model_dump()})
    start = make_model(plan.model, plan.train.seed)
    return plan, ModuleLayout.of(start).flatten_all(start.state_dict())


@pytest.mark.parametrize("number", [1, 2])
def test_attack_centres_of_clusters_that_few_patients_are_in(tmp_path: Path, number: int) -> None:
    """Round 1 sets means alone, round 2 trains. A centre of one patient is what the encoder makes of that patient."""
    plan, weights = clustered_study()
    lax = plan.model_copy(update={"federation": plan.federation.model_copy(update={"min_cell_count": 1})})
    data = visits(*[ALL] * 20, *[CLINICAL] * 11)
    updates = Hospital(tmp_path, data).training(number, weights, plan).updates
    others = Hospital(tmp_path / "lax", data, least=1).training(number, weights, lax).updates
    found, every = (
        {module: update.support for module, update in own.items() if module.startswith("cluster/")}
        for own in (updates, others)
    )
    assert found == {module: n for module, n in every.items() if n >= LEAST}
    assert found and len(found) < len(every)


@pytest.mark.parametrize("number", [1, 2])
def test_attack_centres_of_clusters_at_a_hospital_that_did_not_say_so(tmp_path: Path, number: int) -> None:
    plan, weights = clustered_study()
    hospital = Hospital(tmp_path, visits(*[ALL] * 20, *[CLINICAL] * 11))
    usual = hospital.settings.model_copy(update={"release": ReleasePolicy()})
    hospital.site = replace(hospital.site, settings=usual)
    with pytest.raises(CentresStay, match=r"release\.cluster_centres is not set; nothing was trained"):
        hospital.training(number, weights, plan)


def test_attack_centres_of_clusters_that_no_round_leads_to(tmp_path: Path) -> None:
    """Every round moves them, as it moves what follows gradients, and no further."""
    plan, weights = clustered_study()
    hospital = Hospital(tmp_path, visits(*[ALL] * 20, *[CLINICAL] * 11))
    for number, step in ((1, 0.0), (2, 0.3), (3, 0.4)):
        weights = {m: x + step if m.startswith("cluster/") else x for m, x in weights.items()}
        far = weights | {"cluster/clinical/0/clinical": weights["cluster/clinical/0/clinical"] + 3}
        assert_refused(lambda n=number, w=far: hospital.training(n, w, plan), "ImplausibleModel")
        hospital.training(number, weights, plan)


def test_attack_a_patient_withdrawn_between_two_rounds(tmp_path: Path) -> None:
    before = visits(*[ALL] * 20, *[NO_FLUID] * 9)
    first = Hospital(tmp_path, before).sums(1)
    kept = torch.tensor([row for row, visit in enumerate(before.visits) if not visit.subject_id.endswith("-3")])
    later = Hospital(tmp_path, before.subset(kept)).sums(2)
    assert_no_few_left(first, later)


def test_attack_a_patient_added_between_two_rounds(tmp_path: Path) -> None:
    twenty = [ALL] * 20
    first = Hospital(tmp_path, visits(*twenty)).sums(1)
    later = Hospital(tmp_path, visits(*twenty, ALL)).sums(2)
    assert {name: sums.n for name, sums in later.items()} == {name: sums.n for name, sums in first.items()}


def test_attack_another_study_after_a_patient_was_withdrawn(tmp_path: Path) -> None:
    data = visits(*[ALL] * 20, *[NO_FLUID] * 6)
    first = Hospital(tmp_path, data).sums(1)
    fewer = data.limited(data.observed & (torch.arange(len(data)) % 26 != 7)[:, None])
    later = Hospital(tmp_path, fewer).sums(1, plan=PLAN.model_copy(update={"name": "another"}))
    assert_no_few_left(first, later)


def test_supports_may_leave_as_multiples_of_a_step(tmp_path: Path) -> None:
    plan = tiny_plan(min_cell_count=LEAST, support_step=10)
    exact = Hospital(tmp_path / "exact", visits(*[ALL] * 20, *[NO_FLUID] * 7)).training(1)
    coarse = Hospital(tmp_path / "coarse", visits(*[ALL] * 20, *[NO_FLUID] * 7)).training(1, plan=plan)
    assert exact.figures.visits == 27 and coarse.figures.visits == 30
    for module, update in coarse.updates.items():
        assert update.support % 10 == 0 and abs(update.support - max(exact.updates[module].support, 10)) <= 5
        mean = exact.updates[module].weighted_delta / exact.updates[module].support
        assert torch.allclose(update.weighted_delta / update.support, mean, atol=1e-6)

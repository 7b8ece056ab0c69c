"""Which questions of a study a site answers: those of its plan, in their order, each about one model.

A study asks of a site for each round one training, and an evaluation where the plan has one. The ledger says what was
answered. Asked again, with the same model, the newest round is answered again and gives the same answer: a coordinator
that was killed asks so. How many questions a study may ask follows from its plan alone (`question_count`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from permmoe.errors import PermmoeError
from permmoe.federated.audit import Entry, Kind
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import Instruction
from permmoe.federated.model_chain import PURPOSES, Purpose


class QueryRefused(PermmoeError):
    """A question that the study's plan does not hold, or that comes out of turn."""


@dataclass(frozen=True)
class _Query:
    round: int
    purpose: Purpose
    model: str

    @property
    def turn(self) -> tuple[int, int]:
        return self.round, PURPOSES.index(self.purpose)


def check_query(instruction: Instruction, kind: Kind, answered: Iterable[Entry]) -> None:
    """Check that it is the instruction's turn; `answered` are the ledger's entries about its study, newest first.

    Raises QueryRefused.
    """
    # "A survey counts": who approved one has approved no training.
    if instruction.plan.survey is not None:
        raise QueryRefused("the study is a survey: it counts patients, and trains and evaluates nothing")
    query = _Query(instruction.round, purpose_of(kind, instruction), instruction.model_digest)
    # "An evaluation judges": who approved one has approved no training, and no other model.
    if (asked := instruction.plan.evaluation) is not None:
        if query.purpose != "test":
            raise QueryRefused("the study is an evaluation: it judges a finished model once, and trains nothing")
        if query.model != asked.model_sha256:
            raise QueryRefused("the model that came is not the one whose evaluation was approved here")
    _check_plan(query, instruction.plan.federation)
    done = _of_newest_round(answered)
    if not done:
        return
    newest = max(one.turn for one in done)
    # "The newest round may be asked about again, with the same model": the answer is the one that was given.
    if query in done and query.round == newest[0]:
        return
    # "One question about one model": two models with the same question compare the same patients.
    if any(one.turn == query.turn for one in done):
        raise QueryRefused(f"the {query.purpose} of round {query.round} was asked for before, with another model")
    # "Rounds come in their order."
    if query.turn < newest:
        raise QueryRefused(
            f"the {query.purpose} of round {query.round} was asked for after the {PURPOSES[newest[1]]} of round "
            f"{newest[0]}"
        )


def _of_newest_round(answered: Iterable[Entry]) -> list[_Query]:
    """What was answered in the newest round: rounds come in their order, so older entries need not be read."""
    found: list[_Query] = []
    for entry in answered:
        if entry.kind not in ("training", "evaluation"):
            continue
        purpose = next(purpose for purpose in PURPOSES if purpose == entry.facts["purpose"])
        query = _Query(int(entry.facts["round"]), purpose, str(entry.facts["model_sha256"]))
        if found and query.round < found[0].round:
            break
        found.append(query)
    return found


def question_count(federation: FederationConfig) -> tuple[int, int]:
    """How many trainings and how many evaluations a study may ask of a site."""
    return federation.rounds, federation.n_evaluations


def purpose_of(kind: Kind, instruction: Instruction) -> Purpose:
    """What an instruction of this kind asks the site's visits for."""
    return "training" if kind == "training" else instruction.part


def _check_plan(query: _Query, federation: FederationConfig) -> None:
    # "Rounds are those of the plan."
    if not 1 <= query.round <= federation.rounds:
        raise QueryRefused(f"round {query.round} was asked for, and the study has rounds 1 to {federation.rounds}")
    if query.purpose == "training":
        return
    # "Evaluations are those of the plan: validation every so many rounds, test after the last."
    is_test = federation.evaluate_every and query.round == federation.rounds
    if not (is_test if query.purpose == "test" else federation.is_validated(query.round)):
        raise QueryRefused(f"the study has no {query.purpose} after round {query.round}")

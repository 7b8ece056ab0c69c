"""Sums by severity at one site: what is told of whom, before a patient is withdrawn and after."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from permmoe.calibration.calibration import CDRSB_STAGES, severity_group
from permmoe.federated.release_account import Labels, ReleaseAccount
from permmoe.federated.survey_groups import survey_groups
from permmoe.modality import all_combinations
from permmoe_client.participation.grouped_visits import UNTOLD, as_told, present_facts, severity_facts
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from tests.support.tiny_federation import MODEL, write_site

LEAST = 4


def test_what_is_not_told_of_a_visit_counts_in_nothing(tmp_path: Path) -> None:
    data = site_visits(read_site(write_site(tmp_path, "north", visits=30)), MODEL)
    facts = severity_facts(data, CDRSB_STAGES)
    present = present_facts(data, facts)
    names = list(present)
    absent, without = names[3], set(names[::2])
    every_severity = sum(facts.severity_bits)
    labels = {
        name: own & ~every_severity if name in without else own for name, own in present.items() if name != absent
    }
    grouped = as_told(data, facts, labels)
    assert [visit.subject_id for visit in grouped.data.visits] == [name for name in names if name != absent]
    assert grouped.severity is not None
    true_groups = severity_group(np.array([visit.baseline_cdrsb for visit in grouped.data.visits]), CDRSB_STAGES)
    for visit, group, true_group in zip(grouped.data.visits, grouped.severity, true_groups, strict=True):
        assert group == (UNTOLD if visit.subject_id in without else true_group)
    assert len(set(grouped.severity.tolist())) > 2


def test_attack_no_patient_is_found_by_withdrawing_him_from_sums_by_severity(tmp_path: Path) -> None:
    data = site_visits(read_site(write_site(tmp_path, "north", visits=47)), MODEL)
    facts = severity_facts(data, CDRSB_STAGES)
    present = present_facts(data, facts)

    def told(labels: Labels) -> Counter[object]:
        """Visits by combination and severity group, and by combination alone."""
        grouped = as_told(data, facts, labels)
        assert grouped.severity is not None and len(grouped.severity) == len(grouped.data)
        found: Counter[object] = Counter()
        for visit, group in zip(grouped.data.observed.tolist(), grouped.severity.tolist(), strict=True):
            has = {name for name, is_there in zip(data.names, visit, strict=True) if is_there}
            for combination in all_combinations(data.names):
                if has >= set(combination):
                    found.update([combination, (combination, group)])
        return found

    first = survey_groups(facts, ReleaseAccount(), present, LEAST)
    before, account = told(first), ReleaseAccount().after(first)
    assert min(before.values()) >= LEAST and any(isinstance(k[-1], int) and k[-1] != UNTOLD for k in before)  # type: ignore[index]
    for gone in present:
        left = {name: own for name, own in present.items() if name != gone}
        after = told(survey_groups(facts, account, left, LEAST))
        for key in before.keys() | after.keys():
            assert not 0 < abs(before[key] - after[key]) < LEAST

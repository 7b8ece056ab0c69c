"""Whose visits tell what, what is never read, and when images stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import VisitTable
from permmoe.evaluation.harmonised import Harmonised, as_read, cannot_be_told, harmonised, in_words
from permmoe.layers.harmonisation import Harmonisation
from permmoe.model import PerMMoE
from permmoe.training.site_moments import set_site_moments
from tests.support.harmonised_sites import CONFIG, site_of_visits

SHIFTS = (0.0, 2.0, -1.0, 0.5)


def told(sites: list[VisitData]) -> Harmonisation:
    """What a federation of these sites knows: averages by visits."""
    model = PerMMoE(CONFIG)
    averages = {name: torch.zeros_like(p) for name, p in model.named_parameters() if name.startswith("harmonisation")}
    visits = sum(map(len, sites))
    for site in sites:
        own = PerMMoE(CONFIG)
        assert set_site_moments(own, site).exposure.scanned == dict.fromkeys(CONFIG.names, float(len(site)))
        for name in averages:
            averages[name] += own.get_parameter(name) * (len(site) / visits)
    model.load_state_dict({**model.state_dict(), **averages})
    assert model.harmonisation is not None
    return model.harmonisation


@pytest.fixture(scope="module")
def sites() -> list[VisitData]:
    return [site_of_visits(61 + 2 * i, i, shift) for i, shift in enumerate(SHIFTS)]


@pytest.fixture(scope="module")
def model(sites: list[VisitData]) -> Harmonisation:
    return told(sites)


def inputs_of(found: Harmonised | VisitData) -> dict[str, torch.Tensor]:
    data = found.data if isinstance(found, Harmonised) else found
    return dict(data.batch(torch.arange(len(data))).inputs)


def test_shifts_between_sites_are_gone(model: Harmonisation, sites: list[VisitData]) -> None:
    before = torch.stack([inputs_of(site)["volume0"].mean() for site in sites])
    after = torch.stack([inputs_of(harmonised(model, site))["volume0"].mean() for site in sites])
    assert float(before.std()) > 1 and float(after.std()) < 0.1


def test_no_outcome_is_read(model: Harmonisation, sites: list[VisitData]) -> None:
    """Neither by what a site tells the others nor by what it takes out of its images."""
    site = sites[1]
    others = VisitTable(tuple(replace(visit, delta_cdrsb=None) for visit in site.visits))
    blind = replace(site, visits=others, target=torch.full_like(site.target, torch.nan))
    found, expected = inputs_of(harmonised(model, blind)), inputs_of(harmonised(model, site))
    assert all(torch.equal(found[name], expected[name]) for name in CONFIG.names)
    one, other = PerMMoE(CONFIG), PerMMoE(CONFIG)
    set_site_moments(one, site)
    set_site_moments(other, blind)
    assert all(
        torch.equal(one.get_parameter(name), parameter)
        for name, parameter in other.named_parameters()
        if name.startswith("harmonisation")
    )


def test_training_visits_tell_and_others_are_treated_alike(model: Harmonisation, sites: list[VisitData]) -> None:
    """A test patient changes nothing about the others."""
    parts = ["train"] * 50 + ["test"] * 11
    visits = tuple(replace(visit, split=part) for visit, part in zip(sites[0].visits, parts, strict=True))  # type: ignore[arg-type]
    whole = replace(sites[0], visits=VisitTable(visits))
    without = whole.subset(torch.arange(55))
    found, fewer = inputs_of(harmonised(model, whole)), inputs_of(harmonised(model, without))
    assert all(torch.equal(found[name][:55], fewer[name]) for name in CONFIG.names)
    assert len(harmonised(model, whole).data.part("test")) == 11


def test_a_site_that_trained_nothing_is_told_by_all_its_visits(model: Harmonisation) -> None:
    new = site_of_visits(41, 9, shift=3.0)
    new = replace(new, visits=VisitTable(tuple(replace(visit, split="test") for visit in new.visits)))
    near = float(inputs_of(harmonised(model, site_of_visits(41, 9)))["volume0"].mean())
    assert abs(float(inputs_of(harmonised(model, new))["volume0"].mean()) - near) < 0.3


def test_ten_patients_leave_their_images_as_they_are_and_that_is_said(model: Harmonisation) -> None:
    few = site_of_visits(10, 9, shift=3.0)
    found = harmonised(model, few)
    assert all(torch.equal(inputs_of(found)[name], inputs_of(few)[name]) for name in CONFIG.names)
    [sentence, *_] = in_words(found.as_they_were)
    assert sentence == (
        "table0 is not harmonised here and stays as it is: 10 patients have it, and 20 are needed to tell scanners "
        "from patients"
    )
    tells = PerMMoE(CONFIG)
    assert set_site_moments(tells, few).exposure.scanned == {}
    assert all(not bool(p.any()) for name, p in tells.named_parameters() if name.startswith("harmonisation"))


def test_only_the_modality_that_few_have_stays(model: Harmonisation) -> None:
    site = site_of_visits(41, 9, shift=3.0)
    observed = site.observed.clone()
    observed[19:, 1] = False
    site = replace(site, observed=observed, stored_rows=torch.where(observed, site.stored_rows, -1))
    found = harmonised(model, site)
    assert list(found.as_they_were) == ["table0"]
    assert torch.equal(inputs_of(found)["table0"], inputs_of(site)["table0"])
    assert not torch.equal(inputs_of(found)["volume0"], inputs_of(site)["volume0"])


def test_a_column_that_nobody_has_is_said_and_one_that_some_lack_is_filled_in(model: Harmonisation) -> None:
    site = site_of_visits(41, 9)
    nobody = replace(site, visits=VisitTable(tuple(replace(visit, covariates={}) for visit in site.visits)))
    assert cannot_be_told(model, nobody, "volume0") == "no patient has sex, which it would be adjusted for"
    assert set(harmonised(model, nobody).as_they_were) == set(CONFIG.names)
    some = tuple(replace(v, age_years=None) if i % 3 == 0 else v for i, v in enumerate(site.visits))
    found = harmonised(model, replace(site, visits=VisitTable(some)))
    assert not found.as_they_were and all(bool(x.isfinite().all()) for x in inputs_of(found).values())


def test_before_any_site_has_told_all_stays(sites: list[VisitData]) -> None:
    fresh = PerMMoE(CONFIG).harmonisation
    assert fresh is not None
    found = harmonised(fresh, sites[1])
    assert set(found.as_they_were.values()) == {"no site has told how scanners differ"}
    assert all(torch.equal(inputs_of(found)[name], inputs_of(sites[1])[name]) for name in CONFIG.names)


def test_visits_of_several_hospitals_are_read_hospital_by_hospital(sites: list[VisitData]) -> None:
    network = PerMMoE(CONFIG)
    network.load_state_dict({f"harmonisation.{k}": v for k, v in told(sites).state_dict().items()}, strict=False)
    assert network.harmonisation
    both = joined([renamed(sites[1], "011"), renamed(site_of_visits(10, 9, shift=3.0), "023")])
    read, reasons = as_read(network, both)
    assert reasons["011"] == {} and set(reasons["023"]) == set(CONFIG.names)
    found, alone = inputs_of(read), inputs_of(harmonised(network.harmonisation, sites[1]))
    for name in CONFIG.names:
        assert torch.equal(found[name][: len(sites[1])], alone[name])
        assert torch.equal(found[name][len(sites[1]) :], inputs_of(both)[name][len(sites[1]) :])


def test_a_model_without_harmonisation_reads_images_as_they_are(sites: list[VisitData]) -> None:
    plain = PerMMoE(CONFIG.model_copy(update={"harmonisation": None}))
    assert as_read(plain, sites[1]) == (sites[1], {})


def renamed(data: VisitData, site: str) -> VisitData:
    visits = (replace(visit, site=site, subject_id=f"{site}-{visit.subject_id}") for visit in data.visits)
    return replace(data, visits=VisitTable(tuple(visits)))


def joined(parts: list[VisitData]) -> VisitData:
    """Visits that all have every modality, as one table."""
    visits = VisitTable(tuple(visit for part in parts for visit in part.visits))
    inputs = {name: MemoryRows(torch.cat([inputs_of(part)[name] for part in parts])) for name in CONFIG.names}
    rows = torch.arange(len(visits))[:, None].expand(-1, len(CONFIG.names))
    return replace(
        parts[0],
        visits=visits,
        inputs=inputs,
        stored_rows=rows,
        observed=torch.cat([part.observed for part in parts]),
        baseline=torch.cat([part.baseline for part in parts]),
        target=torch.cat([part.target for part in parts]),
    )

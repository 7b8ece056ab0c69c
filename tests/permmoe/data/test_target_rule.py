"""The target rule against a slow reference."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from permmoe.data.images import FoundImage
from permmoe.data.target_rule import Assessment, TargetRule, choose_index_visit, outcome

NAMES = ("t1", "flair", "amyloid", "tau")
START = date(2010, 1, 1)


def assessment(day: int, cdrsb: float | None, diagnosis: str = "MCI") -> Assessment:
    return Assessment(START + timedelta(days=day), cdrsb, diagnosis, "")


def image(day: int | None, modality: str = "t1", *, registered: bool = False, name: str = "a") -> FoundImage:
    taken = None if day is None else START + timedelta(days=day)
    return FoundImage("011_S_0002", "M000", modality, Path(name), registered, taken)


def reference(
    visits: Sequence[tuple[int, float | None, str]], images: Sequence[tuple[int, str]], horizon: float, window: float
) -> tuple[int, dict[str, int], float | None] | None:
    """(index day, each modality's distance in days, change): the rule spelled out day by day."""
    for day in range(0, 2000):
        for start, cdrsb, diagnosis in visits:
            if start != day or diagnosis != "MCI" or cdrsb is None:
                continue
            distances: dict[str, int] = {}
            for taken, modality in images:
                if abs(taken - day) <= 90 and abs(taken - day) < distances.get(modality, 91):
                    distances[modality] = abs(taken - day)
            if not distances:
                continue
            best: tuple[float, int] | None = None
            change = None
            for later, score, _ in visits:
                distance = abs((later - day) / (365.25 / 12) - horizon)
                if (
                    later > day
                    and score is not None
                    and distance <= window
                    and (best is None or (distance, later) < best)
                ):
                    best, change = (distance, later), score - cdrsb
            return day, distances, change
    return None


scores = st.none() | st.integers(0, 36).map(lambda half: half / 2)
visit_days = st.integers(0, 1100)
clinical = st.lists(
    st.tuples(visit_days, scores, st.sampled_from(["MCI", "MCI", "CN", ""])), max_size=8, unique_by=lambda v: v[0]
)
scans = st.lists(st.tuples(visit_days, st.sampled_from(NAMES)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    visits=clinical, images=scans, horizon=st.sampled_from([6.0, 12.0, 24.0]), window=st.sampled_from([1.0, 3.0, 6.0])
)
def test_target_rule_agrees_with_a_slow_reference(
    visits: list[tuple[int, float | None, str]], images: list[tuple[int, str]], horizon: float, window: float
) -> None:
    rule = TargetRule(horizon_months=horizon, window_months=window)
    assessments = [assessment(*visit) for visit in visits]
    index = choose_index_visit(assessments, [image(*scan) for scan in images], rule, NAMES)
    expected = reference(visits, images, horizon, window)
    if index is None or expected is None:
        assert index is None
        assert expected is None
        return
    day, distances, change = expected
    assert index.assessment.taken == START + timedelta(days=day)
    assert {m: abs((i.taken or date.max) - index.assessment.taken).days for m, i in index.images.items()} == distances
    assert outcome(assessments, index.assessment, rule) == change


@settings(max_examples=60, deadline=None)
@given(visits=clinical, images=scans, data=st.data())
def test_index_visit_is_blind_to_everything_after_it(
    visits: list[tuple[int, float | None, str]], images: list[tuple[int, str]], data: st.DataObject
) -> None:
    rule = TargetRule()
    found = [image(*scan) for scan in images]
    index = choose_index_visit([assessment(*v) for v in visits], found, rule, NAMES)
    if index is None:
        return
    day = (index.assessment.taken - START).days
    later = data.draw(st.lists(st.tuples(st.integers(day + 1, 3000), scores, st.just("MCI")), max_size=4))
    other_future = [assessment(*v) for v in visits if v[0] <= day] + [assessment(*v) for v in later]
    assert choose_index_visit(other_future, found, rule, NAMES) == index


def test_images_are_taken_up_to_the_window_and_no_further() -> None:
    rule = TargetRule(image_window_days=90)
    assert choose_index_visit([assessment(100, 1.0)], [image(190)], rule, NAMES) is not None
    assert choose_index_visit([assessment(100, 1.0)], [image(10)], rule, NAMES) is not None
    assert choose_index_visit([assessment(100, 1.0)], [image(191)], rule, NAMES) is None
    assert choose_index_visit([assessment(100, 1.0)], [image(None)], rule, NAMES) is None


def test_of_one_days_images_the_registered_one_is_taken() -> None:
    raw, registered = image(5, name="a"), image(5, registered=True, name="b")
    index = choose_index_visit([assessment(0, 1.0)], [raw, registered], TargetRule(), NAMES)
    assert index is not None
    assert index.images["t1"] is registered


def test_image_of_a_modality_that_is_not_asked_for_makes_no_index_visit() -> None:
    assert choose_index_visit([assessment(0, 1.0)], [image(0, "tau")], TargetRule(), ("t1",)) is None

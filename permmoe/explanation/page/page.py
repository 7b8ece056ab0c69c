"""The page as HTML: one file without a request to anywhere and without a script; readable by its owner only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

import permmoe
from permmoe.calibration.intervals import LEVELS
from permmoe.data.kinds import kind_of
from permmoe.explanation.atlas import ATLAS, REGIONS, display_t1
from permmoe.explanation.page.contents import (
    Regions,
    Subject,
    behind,
    facts,
    horizon,
    inputs,
    listed,
    name_of,
    regions,
)
from permmoe.explanation.page.drawings import BAR_WIDTH, HISTOGRAM_HEIGHT, WIDTH, axis, sum_steps
from permmoe.explanation.page.pictures import Strip, grey, on_display_grid, strip
from permmoe.explanation.places import Places
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE


def prediction_page(subject: Subject, made_on: date) -> str:
    """The page of one prediction; every text is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"signed": signed, "plain": plain}
    places = subject.reasons.places if subject.reasons else None
    table = regions(places, _images(subject)) if places else None
    prediction, score = subject.prediction, subject.config.score
    template = (files("permmoe.explanation.page") / "prediction.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        subject=subject, visit_name=_visit_name(subject), prediction=prediction, score=score,
        made_on=made_on, version=permmoe.__version__,
        used=listed(prediction.used), horizon=horizon(subject.card), inputs=inputs(subject), facts=facts(subject),
        axis=axis(prediction, subject.outcomes), width=WIDTH, height=HISTOGRAM_HEIGHT, bar_width=BAR_WIDTH,
        behind=behind, caveats=_caveats(subject), difference=difference, narrowed_level=LEVELS[0], name_of=name_of,
        steps=_steps(subject), places=places, regions=table, atlas=ATLAS,
        strips=_strips(subject, places, table) if places and table else {}, columns=_columns(subject, places),
        research_notice=RESEARCH_NOTICE, synthetic_notice=SYNTHETIC_NOTICE,
    )  # fmt: skip


def _caveats(subject: Subject) -> tuple[str, ...]:
    calibration = subject.model.calibration
    return calibration.caveats if calibration else ()


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign; what rounds to nothing has none."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "−") + text


def plain(value: float, digits: int = 1) -> str:
    """A number without a sign but the minus."""
    return signed(value, digits).removeprefix("+")


def difference(value: float, lower: str, higher: str) -> str:
    """A change in words, such as `0.21 narrower`; `no change` for what rounds to nothing."""
    size = f"{abs(value):.2f}"
    return "no change" if float(size) == 0 else f"{size} {lower if value < 0 else higher}"


def _visit_name(subject: Subject) -> str:
    """The visit by the identifiers that the user gave, and no others."""
    session = subject.visit.session
    return f"{subject.visit.subject_id}, session {session}" if session else subject.visit.subject_id


def _images(subject: Subject) -> list[str]:
    return [m.name for m in subject.config.modalities if kind_of(m).is_image and m.name in subject.prediction.used]


def _steps(subject: Subject) -> tuple[object, ...]:
    """The sum from what is expected of anybody to the prediction."""
    if subject.reasons is None:
        return ()
    added, score = subject.reasons.added, subject.config.score
    parts = [(f"{score.name} {subject.visit.baseline_cdrsb:g} at the visit", added.score)] if added.score else []
    parts += [(name_of(name), value) for name, value in added.modalities.items()]
    return sum_steps(subject.reasons.reference, added.expected, parts, "this prediction")


def _strips(subject: Subject, places: Places, table: Regions) -> Mapping[str, Strip]:
    """Slices of the template with all scans' values, and of each scan with its own."""
    of_scans = {scan: places.parts[scan] for scan in table.scans}
    totals = {region: sum(values[region] for values in of_scans.values()) for region in REGIONS}
    largest = max(abs(value) for values in (totals, *of_scans.values()) for value in values.values())
    found = {"": strip(display_t1(), totals, largest, table.numbered)}
    for modality in subject.config.modalities:
        if modality.name in table.scans:
            volume = on_display_grid(subject.visit.volumes[modality.name], modality, subject.config.grid, subject.cache)
            shown = grey(volume, is_uptake=modality.normalisation == "suvr")
            found[modality.name] = strip(shown, of_scans[modality.name], largest, table.numbered)
    return found


def _columns(subject: Subject, places: Places | None) -> Mapping[str, tuple[tuple[str, float, float, float], ...]]:
    """By tabular modality, its columns: name, the visit's value, the training's mean, and what it adds."""
    return {
        m.name: tuple(
            (column, value, mean, places.parts[m.name][column])
            for column, value, mean in zip(
                m.columns, subject.visit.tables[m.name], m.means or (0.0,) * len(m.columns), strict=True
            )
        )
        for m in subject.config.modalities
        if places and m.has_columns and m.name in places.parts
    }

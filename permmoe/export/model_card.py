"""A README.md about a model in the format of Hugging Face's model cards, from the card beside its weights.

It is for the public: counts below `FEWEST` are not told, and neither are ranges, which are single patients' numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import Any

import yaml

from permmoe.calibration.calibration import Calibration, read_calibration
from permmoe.config import ModelConfig, parse_config
from permmoe.data.kinds import kind_of
from permmoe.ensemble import MEMBERS_KEY
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE
from permmoe.runtime.checkpoint_card import says_synthetic

FEWEST = 5
NAME = "PerM-MoE"


def model_card(card: Mapping[str, Any]) -> str:
    """The README's text. Raises ConfigurationError for a card that is no model's."""
    config = parse_config(card.get("model", {}), ModelConfig, "the model's card")
    return f"---\n{yaml.safe_dump(front_matter(card, config), sort_keys=False)}---\n\n{_body(card, config)}"


def front_matter(card: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """What Hugging Face reads: tags, and the error where the card has one."""
    plan = _plan(card)
    tags = ["medical", "neuroimaging", "alzheimers-disease", "mixture-of-experts", "missing-modalities", *config.names]
    tags += ["federated-learning"] if plan else []
    tags += ["synthetic"] if says_synthetic(card) else []
    rmse = _rmse(card)
    found: dict[str, Any] = {"library_name": "permmoe", "tags": list(dict.fromkeys(tags))}
    if rmse is None:
        return found
    kind = "synthetic" if says_synthetic(card) else "private"
    where = "validation visits of the hospitals" if plan else "test visits of the training's manifest"
    name = f"RMSE, {config.score.in_words}, mean over combinations of modalities"
    result = {
        "task": {"type": "regression", "name": f"change in {config.score.name}"},
        "dataset": {"type": kind, "name": f"{where} ({kind})"},
        "metrics": [{"type": "rmse", "name": name, "value": round(rmse, 4)}],
    }
    return {**found, "model-index": [{"name": NAME, "results": [result]}]}


def _body(card: Mapping[str, Any], config: ModelConfig) -> str:
    notices = [f"> **{RESEARCH_NOTICE}**"]
    if says_synthetic(card):
        notices.append(f"> **{SYNTHETIC_NOTICE}**")
    sections = {
        "What it predicts": _task(card, config),
        "Intended use": "Research on progression and on missing modalities, with images prepared as the training's. "
        "Not for diagnosis, prognosis or treatment of a patient, and not on images of another kind.",
        "Training": _training(card, config),
        "Error": _error(card, config),
        "Calibration": _calibration(card),
        "Limitations": _limitations(card),
        "How to use it": "```sh\npermmoe predict MODEL_FOLDER --image "
        f"{config.names[0]}=FILE --baseline NUMBER\n```\n\n`permmoe predict` prepares raw scans and refuses images of "
        "another kind.",
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    return f"# {NAME}: change in {config.score.name}\n\n" + "\n>\n".join(notices) + f"\n\n{text}\n"


def _task(card: Mapping[str, Any], config: ModelConfig) -> str:
    months = card.get("horizon_months") or []
    when = f" after {_span([float(m) for m in months])} months" if months else ""
    lines = [
        f"The change in {config.score.name} ({config.score.unit}){when}, from {config.score.name} at the visit and any "
        f"of {len(config.names)} modalities; what is missing is imputed by learned tokens."
    ]
    for m in config.modalities:
        how = f"volume on a {'×'.join(map(str, config.grid.shape))} grid of {config.grid.spacing_mm:g} mm in MNI space"
        lines.append(f"- `{m.name}`: {how if kind_of(m).is_image else 'numbers: ' + ', '.join(m.columns)}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _training(card: Mapping[str, Any], config: ModelConfig) -> str:
    facts = {"data digest": card.get("data_digest"), "weights (SHA-256)": card.get("tensors_sha256")}
    if (members := card.get(MEMBERS_KEY, 1)) != 1:
        facts |= {"models, whose predictions are averaged": members}
    if weights := config.encoder.weights:
        facts |= {"encoders from (SHA-256)": weights.sha256, "their licence": weights.licence}
        facts |= {"their source": weights.source or None}
    if plan := _plan(card):
        facts |= {"federated study": plan.get("name"), "rounds": card.get("round")}
    facts |= {f"{name} version": found for name, found in (card.get("versions") or {}).items()}
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *rows])


def _error(card: Mapping[str, Any], config: ModelConfig) -> str:
    rmse = _rmse(card)
    if rmse is None:
        return "The model's card holds no error."
    where = "the hospitals' validation visits" if _plan(card) else "the test visits of the training's manifest"
    return f"RMSE {rmse:.2f} {config.score.in_words} on {where}, averaged over the combinations of modalities."


def _calibration(card: Mapping[str, Any]) -> str:
    found: Calibration | None = read_calibration(card, "the model's card")
    if found is None:
        return "None: predictions have no intervals. `permmoe calibrate` makes them from a hospital's own patients."
    n = {name: sum(count for _, count in rows[0]) for name, rows in found.scores.items()}
    rows = [f"| {name} | {count if count >= FEWEST else f'fewer than {FEWEST}'} |" for name, count in n.items()]
    people = found.visits[0] if found.visits[0] >= FEWEST else f"fewer than {FEWEST}"
    intro = f"Conformal intervals at 80 and 95%, from {people} people. By combination; too few are pooled:"
    return "\n".join([intro, "", "| combination | people |", "|---|---|", *rows])


def _limitations(card: Mapping[str, Any]) -> str:
    lines = [
        "- Errors grow on scanners, protocols and populations other than the training's.",
        "- A combination of modalities that few training patients had is predicted with less ground.",
        "- In our own studies few models predict beyond what age, sex, education and clinical scores do.",
    ]
    if says_synthetic(card):
        lines.insert(0, "- The training's patients are invented: figures say nothing about patients.")
    return "\n".join(lines)


def _rmse(card: Mapping[str, Any]) -> float | None:
    """The error that the card has, points: at one place on the test visits, of a federation on the validation's."""
    own = (card.get("metrics") or {}).get("test_mean_rmse")
    mse = card.get("validation_mse")
    rmse = own if own is not None else None if mse is None else sqrt(mse)
    return float(rmse) if rmse is not None and isfinite(rmse) else None


def _plan(card: Mapping[str, Any]) -> Mapping[str, Any] | None:
    plan = card.get("plan")
    return plan if isinstance(plan, Mapping) else None


def _span(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

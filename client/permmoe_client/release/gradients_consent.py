"""What the approval of a study says of gradients with noise: whose go into a step, what they train, what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from permmoe.federated.gradient_bounds import gradient_bounds, trained_parameters
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.trained_modules import fixed_modules, trained_modules
from permmoe.model import PerMMoE


def steps_in_words(plan: RoundPlan) -> str:
    """How patients are drawn for a step. The study has `privacy` without `moments`."""
    privacy = plan.federation.privacy
    assert privacy
    return (
        f"each step on patients who are drawn at random, about {privacy.patients_per_step} of them, or on all where "
        "there are fewer"
    )


def trained_in_words(plan: RoundPlan, modules: Sequence[str]) -> tuple[str, ...]:
    """What stays as the study begins with it, of all modules of its model; nothing where all of it is trained."""
    privacy = plan.federation.privacy
    if privacy is None or not (fixed := fixed_modules(plan, modules)):
        return ()
    return (
        f"It trains parts of the kinds {', '.join(privacy.trains)} alone. The other {len(fixed)} of {len(modules)} "
        "stay as the study begins with them: no gradient of a patient is computed for them, and no message holds them.",
    )


def gradients_protection_in_words(plan: RoundPlan) -> tuple[str, ...]:
    """How much of a patient goes into a step, ε and δ. The study has `privacy` without `moments`."""
    privacy = plan.federation.privacy
    assert privacy
    model = PerMMoE(plan.model)
    layout = ModuleLayout.of(model)
    modules = trained_modules(plan, plan.federation.rounds, layout.modules)
    bounds = gradient_bounds(privacy, layout, modules, trained_parameters(model, layout, modules))
    limit = f"{privacy.max_gradient_norm:g}"
    clipped = (
        f"a patient's gradient is shortened in each of {len(bounds)} parts by itself, to bounds that make it {limit} "
        "long at most as a whole"
        if bounds
        else f"a patient's gradient is shortened to a length of {limit}"
    )
    noise = (
        f"noise of {privacy.noise_multiplier:g} times that length is added to every step's sum"
        if privacy.noise_multiplier
        else "noise is added to every step's sum, made for that length, so that the whole study costs a patient here "
        f"at most ε = {privacy.target_epsilon:g}"
    )
    return (
        f"Differential privacy of every patient: {clipped}, and {noise}, at δ = {privacy.delta:g}; "
        "`permmoe-client ledger` keeps account, and training stops before the site's own privacy_budget is passed. A "
        "training that comes too late for its round is spent all the same.",
    )

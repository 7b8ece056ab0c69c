"""Why a reply or a request was left out, in a sentence for the coordinator.

A sentence stands beside its rule and says nothing about who broke it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from permmoe.federated.refusals import REFUSAL_SENTENCES
from permmoe.federated.training_figures import FIGURES, figure_rules, missing_rule

AT_WORK = "at_work"
"""Of a site that had not answered when its round closed, and may still: no reply of it was left out."""

NO_REPLY_RULES: Mapping[str, str] = MappingProxyType(
    {
        # What came is no message: permmoe_server.coordination.reply_objects.
        "not_a_message": "It is no message: a part is of the wrong kind, or cannot be read.",
        # The reply could not be read: permmoe.federated.replies.
        "missing_reply": "It does not state its site, round and model.",
        "missing_site": "It does not say which site it is from.",
        "missing_round": "It does not say which round it answers.",
        "missing_model_digest": "It does not say which model it started from.",
        "missing_update": "It holds no array of changes.",
        "missing_support": "It does not say how much data is behind its changes.",
        "missing_figures": "It lacks the visits, loss and times of the training.",
        **{missing_rule(name): figure.absence for name, figure in FIGURES.items()},
        "missing_sums": "It holds no sums of errors.",
        "missing_further": "What it says of bias and spread of errors cannot be read.",
        "missing_scores": "Its counts of errors cannot be read.",
        "missing_study": "It does not say which survey it answers.",
        "missing_counts": "It holds no numbers of patients.",
        "counts": "A number of patients is no whole number.",
        "ledger_head": "What it states about its site's ledger is not a number and a SHA-256.",
        "encoding": "An array is not written as this version of PerM-MoE writes it.",
        "sums": "An evaluation does not hold a count and four sums for each combination.",
        "site_name": "It carries a name that no site can have.",
        "modalities": "What it states about its site's modalities is not a list of names.",
        "unknown_module": "It holds a module that this model does not have.",
        "dtype": "An array is not made of bytes, as this version of PerM-MoE packs its numbers.",
        "shape": "A module does not have the size that it has in this model.",
        # The reply could not be read: permmoe.federated.secure.messages.
        "missing_advertisement": "It holds no keys for this round.",
        "missing_sealed": "It holds no shares for the other sites.",
        "missing_keepers": "It does not say for which other sites its shares are.",
        "missing_shares": "It holds no shares for the other sites that it names.",
        "missing_numbers": "It holds no masked numbers.",
        "missing_bits": "It does not say, under a mask, which modules it trained.",
        "missing_signature": "Its masked numbers are not signed.",
        "missing_count-shares": "It holds nothing that the other sites count from.",
        "missing_keys": "It holds no keys to what the other sites count from.",
        "missing_seeds": "It holds no shares of what the other sites count from.",
        "missing_mask-keys": "It holds no shares of lost sites' keys.",
        "missing_block-keys": "It holds no keys of the modules that it releases.",
        "missing_input-seeds": "It holds no shares of silent sites' seeds.",
        "advertisement": "Its keys for this round are not written as this version of PerM-MoE writes them.",
        "sealed": "Its shares for the other sites are not one, of the right length, for each site that it names.",
        "keys": "Its keys to what the other sites count from are not as long as those for all of them.",
        "mask-keys": "Its shares of lost sites' keys are not byte strings, or too long.",
        "block-keys": "Its keys of the modules that it releases are not byte strings, or too long.",
        "input-seeds": "Its shares of silent sites' seeds are not byte strings, or too long.",
        "bits": "What it says under a mask of its modules has the wrong length.",
    }
)
"""Rule -> why what a site sent is no reply. An honest site of this version never breaks one."""

UNPROVEN_RULES: Mapping[str, str] = MappingProxyType(
    {
        # permmoe_server.coordination.reply_objects, nonblocking_grid.
        "unsigned": "It is not signed: the site's program is older than the coordinator's and has to be upgraded, or "
        "somebody else answered in its place.",
        "wrong_signature": "It is not signed with the site's key in the roster: somebody else answered in its place.",
        "replayed": "It is not signed as the answer to this message: another one was kept, and came in its place.",
        "altered": "It did not come whole as it was signed: a part is missing, or another one.",
        "reply_size": "It is larger than any honest reply to what the site was asked.",
        "wrong_node": "It is in another node's name.",
    }
)
"""Rule -> why it is not known that a reply is the site's own. A region's or the coordinator's superlink could have
brought it about, so that a site is not quarantined for it: that would be theirs to decide."""

REPLY_RULES: Mapping[str, str] = MappingProxyType(
    {
        **NO_REPLY_RULES,
        **UNPROVEN_RULES,
        **figure_rules(),
        # The reply was read and broke a rule: permmoe_server.protocol.acceptance.
        "wrong_round": "It answers another round than the one that was open.",
        "wrong_site": "It spoke in the name of another site than the one whose key sent it.",
        "model_digest": "It started from another model than the one that was sent.",
        "duplicate_reply": "Its site had answered this round already; the first reply counts.",
        "unknown_modality": "It has a modality that this study does not have.",
        "empty": "It trained no module.",
        "untrained_module": "It changes a module that this round does not train.",
        "not_finite": "A value is NaN, infinite or beyond what a sum can hold, or a time is negative.",
        "support_range": "The data behind a module are not above 0 and within max_support.",
        "norm": "A module changed by more than max_update_norm.",
        "fixed_point_range": "Adding it could have overflowed the sum over sites.",
        "unknown_combination": "An evaluation names a combination of modalities that this study does not have.",
        "min_cell_count": "An evaluation covers fewer than min_cell_count visits of a combination.",
        "negative_sum": "A sum of squares or of absolute values is negative.",
        "evaluated_visits": "An evaluation counts more visits than its site said that it trained on.",
        "sums_range": "Sums of errors are not those of outcomes and predictions within the outcome's range.",
        "further_sums": "Bias and spread of errors are absent, not asked for, or not those of the same errors.",
        "noised": "Counts of errors with noise are absent, not asked for, or not of the study's shape.",
        "scores": "Counts of errors are absent, not asked for, of few visits, or not of as many as it evaluated.",
        "wrong_survey": "It answers another survey.",
        "survey_counts": "A number is of what the survey did not ask for, or of fewer than min_cell_count patients.",
        "sums_nested": "A combination has visits that a part of it lacks.",
        # The round was closed without it: permmoe_server.protocol.at_work.
        AT_WORK: "The round closed before the site had answered; while it is at work it is asked nothing else.",
        "late": "It answers a round that was closed, and the study takes no update that is so late.",
        # It was not asked for one: permmoe_server.protocol.quarantine.
        "quarantined": "The site sent several replies that are none, and is not asked any more in this study.",
        # There was no reply: permmoe_server.protocol.exchange, flwr.common.constant.ErrorCode.
        "no_reply": "The site was silent until the round's deadline.",
        "NODE_UNAVAILABLE": "The site lost its connection before its answer was whole.",
        "MESSAGE_UNAVAILABLE": "The site did not fetch the round before its deadline.",
        "REPLY_MESSAGE_UNAVAILABLE": "The site fetched the round and did not answer before its deadline.",
        "LOAD_CLIENT_APP_EXCEPTION": "The site's installed program could not be loaded; its log says why.",
        "CLIENT_APP_CRASHED": "The site's program was killed or crashed; its log says more.",
        "CLIENT_APP_RAISED_EXCEPTION": "The site's program stopped with an error; its log says more.",
        "MOD_FAILED_PRECONDITION": "Flower refused the round at the site; the site's log says more.",
        "INVALID_FAB": "The site was sent a program, which no site of this federation accepts.",
        "UNKNOWN": "Flower could not say what went wrong; the site's log may.",
        # The reply did not fit the secure sum: permmoe_server.protocol.secure_stages.
        "secure_advertisement": "Its keys for this round are not signed by the site in the roster.",
        "secure_sum": "Its shares, masked numbers or signature do not fit the round's secure sum.",
        "cohort_difference": "Left out, since sums may differ by min_cohort_difference sites or more, or by none.",
        # The site could not read what it was sent: permmoe.federated.records.
        "MalformedRecord": "The site cannot read what it was sent; its program may be older than the coordinator's.",
        # The site declined: permmoe.federated.refusals.
        **{refusal.value: sentence for refusal, sentence in REFUSAL_SENTENCES.items()},
    }
)
"""Rule -> why a reply to a round is left out."""

MALFORMED_RULES = frozenset(NO_REPLY_RULES) | {"wrong_site"}
"""The rules for which a site is quarantined in the end: what it has signed is no reply, or in another site's name."""

SITE_ERROR = "The site's program stopped with this type of error; the site's log says more."


def reply_reason(rule: str) -> str:
    """The sentence for a rule. Any other word is the type of an error at the site, chosen by the site."""
    return REPLY_RULES.get(rule, SITE_ERROR)

"""Whom a study is trained without whom an earlier one was trained with."""

from __future__ import annotations

from pydantic import Field

from permmoe.config import Configuration

DIGEST = r"^[0-9a-f]{64}$"


class ForgettingConfig(Configuration):
    """A follow-up study: it goes on from the newest model that never saw who withdrew, and they are in none of it.

    `permmoe-server study forget` writes it. Hospitals approve it as every study.
    """

    studies: tuple[str, ...] = Field(
        min_length=1,
        description="digests of the study that is trained anew, and of those that it goes on from or was itself for",
    )
    site: str = Field(description="the hospital that withdrew, or whose patients did")
    is_whole_site: bool = Field(description="whether the hospital withdrew; it is then not asked")
    withdrawal: str = Field(
        "",
        pattern=f"{DIGEST}|^$",
        description="SHA-256 of the withdrawal's entry in the hospital's ledger; empty where it could not be asked",
    )
    first_round: int = Field(
        ge=1, description="the first round that the hospital took part in, from which on rounds are run again"
    )
    model_sha256: str = Field(
        pattern=DIGEST, description="the model that this round began with, as the chain of the earlier study has it"
    )

    def covers(self, other: ForgettingConfig) -> bool:
        """Whether both forget the same withdrawal."""
        own = self.site, self.withdrawal, self.is_whole_site
        return own == (other.site, other.withdrawal, other.is_whole_site)

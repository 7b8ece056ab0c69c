"""A site's own settings. Nothing here leaves the site."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, model_validator

from permmoe.config import Configuration, SplitConfig, read_config
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.target_rule import TargetRule
from permmoe.data.visit_scores import require_column
from permmoe.errors import ConfigurationError
from permmoe.federated.roster import SITE_NAME
from permmoe.runtime.logs import LogFormat

NO_PROXY = "direct"
"""`coordinator.proxy` where no variable of the environment is to lead the connection through a proxy."""


class DataFolders(Configuration):
    """ADNI-like tables and images in Clinica's layout, turned into index visits when the site starts."""

    tables: Path = Field(description="folder with ADNIMERGE.csv, or CDR.csv and DXSUM.csv, and the study's tables")
    images: Path | None = Field(
        None, description="folder in BIDS or Clinica's CAPS layout; none: the study has tables alone"
    )
    target: TargetRule = Field(TargetRule(), description="which visit is the index visit, and what its outcome is")
    score: str = Field(
        "",
        description="column that holds the score of 'outcome' at each visit, as MOCA.TOTAL of a table MOCA.csv; empty: "
        "where ADNI's tables have it",
    )


class Preparation(Configuration):
    """The site's images are as scanners wrote them: they are prepared once, when a study first needs them."""

    folder: Path = Field(description="folder for prepared images and qc.html; it will hold patients' images")
    workers: int = Field(1, ge=1, description="patients prepared at once; about 1.5 GB of memory each")


class Coordinator(Configuration):
    """How the site reaches its federation, and by which files it recognises it: the content of its kit."""

    host: str = Field(description="name or IP address of the server, as in its certificate")
    port: int = Field(8443, ge=1, le=65535)
    proxy: str | None = Field(
        None,
        description="HTTP proxy on the way, as http://proxy:3128 or http://user:password@proxy:3128; none: as "
        "HTTPS_PROXY and NO_PROXY say; 'direct': no proxy, whatever those say",
    )
    authority: Path = Field(Path("ca.crt"), description="the federation's certificate authority")
    roster: Path = Field(Path("roster.signed.json"), description="the sites of the federation, signed")
    certificate: Path = Field(Path("site.crt"), description="this site's certificate, for TLS")
    key: Path = Field(Path("node.key"), description="this site's private key, which nobody else may read")


class PrivacyBudget(Configuration):
    """What a patient of this site may lose, over all studies together. It is spent as the ledger says."""

    epsilon: float = Field(gt=0, description="ε")
    delta: float = Field(1e-5, gt=0, lt=1, description="δ")


class ReleasePolicy(Configuration):
    """What may leave the site. Whatever the policy does not name stays."""

    modules: tuple[str, ...] = Field(("*",), description="patterns of modules whose updates may leave, as encoder/*")
    min_cell_count: int = Field(5, ge=1, description="no figure over fewer subjects leaves, whatever the study says")
    max_model_change: float = Field(
        0.5, gt=0, description="root mean square by which a round may move a module of the model that is sent here"
    )
    cluster_centres: bool = Field(
        False,
        description="studies with model.bank = clusters: centres of two rounds may be over patients that differ by one",
    )
    daily_bytes: int = Field(10_000_000_000, ge=0, description="most that leaves in any 24 hours, bytes")
    require_secure: bool = Field(False, description="only studies with the secure sum: no update leaves unmasked")
    min_cohort: int = Field(3, ge=3, description="secure: a sum over fewer sites is refused, whatever the study says")
    min_holders: int = Field(3, ge=2, description="secure: a module that fewer sites trained stays masked")
    min_cohort_difference: int = Field(
        2,
        ge=1,
        description="secure: sums may differ by this many sites, or by none; 1: the coordinator can subtract",
    )
    min_secure_threshold: float = Field(
        0.5, ge=0.5, lt=1, description="secure: least secure_threshold of a study that is accepted"
    )


class SiteConfig(Configuration):
    """What a hospital decides for itself; a YAML file on its own machine. Without `coordinator` nothing connects."""

    name: str = Field(pattern=f"^{SITE_NAME.pattern}$", description="what the coordinator knows the site by")
    manifest: Path | None = Field(None, description="CSV file of the site's index visits")
    folders: DataFolders | None = Field(None, description="tables and images, in place of a manifest")
    outcome: OutcomeColumns = Field(
        USUAL_COLUMNS,
        description="of which score the outcome is and in which unit; with a manifest also which columns hold it",
    )
    cache: Path = Field(description="folder for preprocessed volumes; it will hold patients' images")
    prepare: Preparation | None = Field(
        None, description="prepare raw images (brain, template space, uptake ratios); none: images are prepared already"
    )
    images_are_prepared: bool = Field(
        False, description="images without a sidecar were prepared as the study's plan says; somebody made sure of it"
    )
    modalities: tuple[str, ...] = Field((), description="modalities to take part with; empty: all that visits have")
    split: SplitConfig = Field(SplitConfig(), description="which visits train, validate and test")
    threads: int = Field(1, ge=0, description="CPU threads of a training; 0: as many as PyTorch likes")
    device: str = Field(
        "auto",
        description="where to train: cpu; cuda, cuda:1 … (a round is refused while that GPU cannot be used); auto (a "
        "GPU if there is one and the study's encoder is faster there, else the CPU, as in place of a GPU that fails)",
    )
    release: ReleasePolicy = ReleasePolicy()
    privacy_budget: PrivacyBudget | None = Field(
        None, description="with it only studies with differential privacy may train, until it is spent"
    )
    approved_studies: tuple[str, ...] = Field((), description="digests of studies that may train here; empty: none")
    coordinator: Coordinator | None = None
    insecure_noise_seed: int | None = Field(
        None, description="simulation only: makes the noise of differential privacy reproducible, and so worthless"
    )
    ledger: Path | None = Field(None, description="folder of the record of all that left, and of approvals")
    state: Path | None = Field(
        None,
        description="folder of what a study keeps at the site alone, as private modules, and of a round's training",
    )
    checkpoint_seconds: float = Field(
        60.0,
        ge=0,
        description="with 'state': a round's training that is interrupted has lost no more work than this, seconds",
    )
    weights: Path | None = Field(
        None, description="folder of files of encoders that studies name (model.encoder.weights), by their own names"
    )
    logs: Path | None = Field(None, description="folder of log files; without it they go to standard error")
    log_format: LogFormat = Field("text", description="how lines of the log are written: text, or json for machines")
    health_socket: Path | None = Field(None, description="Unix socket for gRPC health probes; none: no probes")

    @model_validator(mode="after")
    def _is_consistent(self) -> SiteConfig:
        if (self.manifest is None) == (self.folders is None):
            raise ValueError("give either 'manifest' or 'folders'")
        if self.folders:
            self._require_score_at_visits(self.folders.score)
        if self.coordinator and self.ledger is None:
            raise ValueError("a site that connects to a coordinator needs 'ledger', a folder for what left")
        return self

    def _require_score_at_visits(self, column: str) -> None:
        own, usual = self.outcome, USUAL_COLUMNS
        if (own.baseline, own.change, own.follow_up) != (usual.baseline, usual.change, usual.follow_up):
            raise ValueError(
                "'baseline', 'change' and 'follow_up' of 'outcome' are columns of a manifest, a row a patient; the "
                "tables of 'folders' have a row a visit: name the score's column in 'folders.score'"
            )
        try:
            require_column(self.outcome, column)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @property
    def outcome_in_words(self) -> str:
        """Where the outcome of a visit comes from here."""
        if self.folders is None:
            return f"{self.outcome.in_words()}, over horizon_months"
        rule, column = self.folders.target, f", from {self.folders.score}" if self.folders.score else ""
        months = f"{rule.horizon_months:g} ± {rule.window_months:g} months (folders.target)"
        return f"the change in {self.outcome.score_in_words}{column}, over {months}"


def read_site(path: Path) -> SiteConfig:
    """The site's settings; relative paths start at the file's folder. Raises ConfigurationError."""
    return _from_folder(read_config(path, SiteConfig), path.parent)


ConfigurationT = TypeVar("ConfigurationT", bound=Configuration)


def _from_folder(config: ConfigurationT, folder: Path) -> ConfigurationT:
    """The configuration with every path in it, however deep, starting at a folder."""
    changed: dict[str, object] = {}
    for field in type(config).model_fields:
        match getattr(config, field):
            case Path() as path:
                changed[field] = folder / path.expanduser()
            case Configuration() as part:
                changed[field] = _from_folder(part, folder)
    return config.model_copy(update=changed)

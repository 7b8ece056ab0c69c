"""The kit of a site: one zip file with the settings and certificates that a hospital needs, and no code."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from datetime import datetime

NODE_KEY = "node.key"
SITE_CERTIFICATE = "site.crt"


@dataclass(frozen=True)
class Kit:
    """The content of a site's kit."""

    federation: str
    site: str
    host: str
    port: int
    fingerprint: str
    """The fingerprint of the coordinator's key."""
    authority_pem: bytes
    signed_roster: bytes
    certificate_pem: bytes
    """The certificate for the site's own key."""
    node_key: bytes | None
    """The site's private key where the coordinator made it; None where the hospital keeps its own."""
    made: datetime
    """When the kit is made: the date of its files."""

    def to_zip(self) -> bytes:
        """Return the zip file; the private key in it unpacks with mode 0600."""
        files = {
            "README.txt": self._readme().encode(),
            "site.yaml": self._site_template().encode(),
            "fingerprint.txt": f"{self.fingerprint}\n".encode(),
            "ca.crt": self.authority_pem,
            SITE_CERTIFICATE: self.certificate_pem,
            "roster.signed.json": self.signed_roster,
        }
        if self.node_key is not None:
            files[NODE_KEY] = self.node_key
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(f"{self.site}/{name}", self.made.timetuple()[:6])
                entry.external_attr = (0o600 if name == NODE_KEY else 0o644) << 16
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    def _site_template(self) -> str:
        return f"""\
# What the hospital decides for itself. This file stays here; relative paths start at its folder.
# Check it at any time with: permmoe-client --site site.yaml --check

# The name by which the coordinator knows this site; it has to stay as it is.
name: {json.dumps(self.site)}

# The table of index visits, made by `permmoe data` or by yourself (see client/README.md for its columns).
manifest: data/manifest.csv
# Where the manifest holds the outcome, if not in baseline_cdrsb and delta_cdrsb: which score, in which unit, in which
# columns. 'follow_up' (the score at the horizon) may stand in place of 'change'; 'times' converts to the study's unit.
# outcome: {{name: CDR-SB, unit: points, baseline: sob_at_visit, follow_up: sob_after_24_months}}
# In place of a manifest: ADNI-like tables and images in Clinica's BIDS or CAPS layout.
# folders:
#   tables: /data/tables
#   images: /data/caps

# Folder for preprocessed images. It will hold patients' images: choose an encrypted disk.
cache: cache

# Modalities to take part with, such as [t1, flair]. Empty: all that the visits have.
modalities: []

# Where to train: auto (a GPU where there is one), cpu, cuda, cuda:1 ...
device: auto

# CPU threads of a training; 0: as many as PyTorch chooses.
threads: 0

# What may leave the hospital. All that is not named stays.
release:
  modules: ["*"]            # patterns of model parts whose updates may leave, such as encoder/* or expert/*
  min_cell_count: 5         # no figure over fewer subjects than this leaves, whatever a study says
  max_model_change: 0.5     # a model that a round moved further (root mean square of a module) is not trained
  daily_bytes: 10000000000  # most that leaves in any 24 hours
  require_secure: false     # true: only studies with the secure sum; no update leaves unmasked
  min_cohort: 3             # a secure sum over fewer sites is refused
  min_holders: 3            # what fewer sites trained stays masked in it
  min_cohort_difference: 2  # secure sums differ by this many sites or more, or by none; 1: others may subtract yours

# With a budget only studies with differential privacy may train, until it is spent.
# privacy_budget: {{epsilon: 8.0, delta: 1.0e-5}}

# Studies that may train here, by their full digest. No study may train before you approve it: here, or with
# `permmoe-client approve`.
approved_studies: []

# Signed record of everything that left, and of approvals. Back it up.
ledger: ledger

# What a study keeps at this site alone, and what a restart needs to go on with a round's training where it was
# interrupted. It follows from patients' images, as the model does: readable by the client's account only.
state: state

# Folder of log files; without it they go to standard error, which systemd keeps.
# logs: logs

# Unix socket for gRPC health probes; without it there are none. No port is ever opened.
# health_socket: /run/permmoe/health.sock

# How this site reaches the federation, and by which files each recognises the other.
coordinator:
  host: {json.dumps(self.host)}
  port: {self.port}
  # An HTTP proxy on the way, as http://proxy:3128 or http://user:password@proxy:3128. Without it HTTPS_PROXY and
  # NO_PROXY of the environment count; direct: no proxy, whatever those say.
  # proxy: http://proxy:3128
  authority: ca.crt
  roster: roster.signed.json
  certificate: {SITE_CERTIFICATE}
  key: {NODE_KEY}
"""

    def _readme(self) -> str:
        key = _RECEIVED_KEY if self.node_key is not None else _OWN_KEY
        return f"""\
{self.federation}: kit of the site {self.site}
{"=" * (len(self.federation) + len(self.site) + 19)}

For the hospital's IT. The kit holds settings and keys, no programs and no patient data.

1. Unpack it into a folder that only the account that will run permmoe-client can read:

       umask 077
       unzip {self.site}.zip

2. Compare the fingerprint of the coordinator's key by telephone, with a number that you did not get with this kit:

       {self.fingerprint[:39]}
       {self.fingerprint[40:]}

   It has to be the same as that of the file ca.crt, in groups of four:

       openssl x509 -in ca.crt -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256

   Where anything differs, stop and inform the coordinator.

3. {key}
4. Edit site.yaml: the table of visits, the cache folder, what may leave. It stays in the hospital.

5. Let this machine reach {self.host}, TCP port {self.port}, outward (TLS; an inspecting proxy will not do). No
   port has to be open inward.

6. Check everything, then connect:

       permmoe-client --site site.yaml --check
       permmoe-client --site site.yaml

   Nothing trains until the hospital approved the study: permmoe-client approve shows it in words and asks.

Files
  site.yaml           what the hospital decides
  {SITE_CERTIFICATE}            this site's certificate: the coordinator's gateway admits no connection without one
  ca.crt              certificate of the federation's authority: the server has to prove itself with it
  roster.signed.json  the sites of the federation with their public keys, signed by the coordinator
  fingerprint.txt     the fingerprint of the coordinator's key
"""


_RECEIVED_KEY = f"""\
{NODE_KEY} is this site's private key, made by the coordinator. Keep it secret (chmod 600 {NODE_KEY}), and
   delete the zip file and the message that it came with. A key that never leaves the hospital is better: ask the
   coordinator for it, and send only the public half.
"""

_OWN_KEY = f"""\
Put the private key that you made beside this file as {NODE_KEY} (chmod 600 {NODE_KEY}), or write its path into
   site.yaml. The coordinator has only its public half and never needs more.
"""

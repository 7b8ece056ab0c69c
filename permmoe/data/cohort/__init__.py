"""A synthetic, ADNI-shaped cohort, written as real files in the layouts that users hold.

`settings` what can be set · `realism` how like ADNI · `disease` hidden state and CDR-SB · `scores` MMSE, ADAS-Cog, FAQ,
RAVLT · `clinical_visits` when somebody is seen · `subjects` who, and what is missing · `places`, `misregistration`
where things lie · `tables` ADNI's tables · `release_tables` those that its archive ships today · `regions`, `fields`,
`anatomy` the template brain · `scanners` site differences · `imaging` voxels · `layouts` file names · `writer` files.
Its figures say nothing about patients: label them synthetic.
"""

from permmoe.data.cohort.realism import ADNI_LIKE, Realism
from permmoe.data.cohort.settings import CohortConfig, MissingConfig, PhaseShares, SiteConfig
from permmoe.data.cohort.subjects import Subject, draw_subjects
from permmoe.data.cohort.writer import write_cohort

__all__ = [
    "ADNI_LIKE", "CohortConfig", "MissingConfig", "PhaseShares", "Realism", "SiteConfig", "Subject", "draw_subjects",
    "write_cohort",
]  # fmt: skip

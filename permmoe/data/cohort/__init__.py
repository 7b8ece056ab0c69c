"""A synthetic, ADNI-shaped cohort, written as real files in the layouts that users hold.

`settings` what can be set · `disease` hidden state and CDR-SB · `subjects` who, when and what is missing · `tables`
ADNI's tables · `release_tables` those that its archive ships today · `regions`, `fields`, `anatomy` the template
brain · `scanners` site differences · `imaging` voxels · `layouts` file names · `writer` files. Its figures say nothing
about patients: label them synthetic.
"""

from permmoe.data.cohort.settings import CohortConfig, MissingConfig, PhaseShares, SiteConfig
from permmoe.data.cohort.subjects import Subject, draw_subjects
from permmoe.data.cohort.writer import write_cohort

__all__ = ["CohortConfig", "MissingConfig", "PhaseShares", "SiteConfig", "Subject", "draw_subjects", "write_cohort"]

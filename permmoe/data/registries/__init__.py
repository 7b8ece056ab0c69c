"""Other registries than ADNI: their tables, and images found by subject and day, become the one visit table.

Each has a file that reads its tables into dated assessments (`oasis3`, `aibl`, `nacc`); everything after that is
permmoe.data.registries.registry's, and permmoe.data.index_visits'.
"""

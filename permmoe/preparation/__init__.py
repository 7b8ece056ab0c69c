"""From what scanners write to what a model reads: find scans, convert, mask the brain, register, form uptake ratios.

`sources/` finds and converts scans, `images/` computes, `quality/` judges and shows the results.
"""

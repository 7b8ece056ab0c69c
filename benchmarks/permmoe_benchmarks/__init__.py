"""Measurements of what permmoe costs: every figure is measured by one command and written to JSON and a page.

`library` has what measurements share, `measurements` one module for each thing that is measured, `pages` turns the JSON
of a run into Markdown and figures. Two commands run many measurements: `performance` compares in turns (make bench),
`scaling` follows curves (make scaling). `same_bits` measures nothing: it says whether two checkouts compute the same.
"""

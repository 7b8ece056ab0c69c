"""Federations on one machine: partition a cohort, train every method on it, and report what came out."""

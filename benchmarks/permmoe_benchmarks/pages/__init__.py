"""Pages and figures, written from the JSON of a run and from nothing else."""

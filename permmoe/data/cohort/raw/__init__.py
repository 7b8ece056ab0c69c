"""The synthetic cohort as scanners write it: whole heads in a pose of their own, in counts, before any preparation.

`brain` the subject's brain, finely · `head` what is around it · `pose` how it lies · `protocol` tissue's signal, voxels
and field of view · `acquisition` from a head to numbers in a file · `session` all scans of a session · `pet_sidecar`
tracers and frames · `files` NIfTI, JSON and truth · `dicom` series. The brain is that of the ordinary cohort: the true
map takes one to the other.
"""

"""What an attacker at the coordinator learns about a patient, with and without protection; on synthetic cohorts only.

`study` what can be set · `observation` what the coordinator holds after a round · `membership` was this patient in it ·
`inversion` what did a patient's image look like · `detection` ROC, AUC and what (ε, δ) allows · `games` one trial
each · `report` the page · `cli` the command.
"""

"""How sure a prediction is: split conformal intervals from visits that no model was trained on.

`score_counts` errors as counts on a grid, which add up over hospitals · `intervals` from counts to intervals ·
`calibration` what a model's card holds · `calibrate` how it is made. Nothing here knows of a federation.
"""

"""Figures and settings to trackers of experiments that people have already: MLflow and TensorBoard.

`tracker.py` is all that the rest of the project sees; the other two files each know one library, an optional extra.
"""

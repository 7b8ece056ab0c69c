"""PerM-MoE: progression of Alzheimer's disease from whichever brain images there are (arXiv 2509.12234)."""

__version__ = "0.1.0"

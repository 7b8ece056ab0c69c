"""How much of the truth a survey tells, and what it costs a later study: `python benchmarks/survey.py`."""

from permmoe_benchmarks.survey_losses import main

if __name__ == "__main__":
    main()

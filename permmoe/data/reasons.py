"""Why a visit, a modality of one, or an image is left out, each reason with what to do next.

A reason is a category: it holds no identifier, path or measured value, so that counts of it may be logged.
"""

from __future__ import annotations

from enum import StrEnum


class Remedy(StrEnum):
    """What to do next; reasons with the same remedy belong together."""

    MOUNT = "mount the images, or mend the paths in the table"
    COPY = "copy them again from their source"
    CONVERT_SERIES = "convert the right series again; average dynamic PET first"
    CONVERT_FROM_DICOM = "convert them again from DICOM"
    LOOK = "look at them; PET has to be SUVR, as pet_linear writes it"
    PREPARE = "look at them; prepare them as the others are: skull removed, registered, each under its modality"
    COMPARE_SCORES = "compare the scores with their source"
    COMPLETE_ROWS = "complete these rows, or take them for lost"


class Reason(StrEnum):
    """Why something is left out; the value is the text that stands in `quarantine.csv`."""

    remedy: Remedy

    def __new__(cls, text: str, remedy: Remedy) -> Reason:
        """A reason is its text, and has a remedy."""
        reason = str.__new__(cls, text)
        reason._value_, reason.remedy = text, remedy
        return reason

    # Images.
    FILE_NOT_FOUND = "file not found", Remedy.MOUNT
    FILE_NOT_OPENED = "file cannot be opened", Remedy.MOUNT
    DAMAGED_ARCHIVE = "compressed file is truncated or damaged", Remedy.COPY
    UNREADABLE_HEADER = "header cannot be read", Remedy.COPY
    NO_VOXELS = "not an image of voxels", Remedy.COPY
    UNREADABLE_VOXELS = "voxels cannot be read", Remedy.COPY
    TOO_FEW_DIMENSIONS = "not three-dimensional", Remedy.CONVERT_SERIES
    TOO_MANY_DIMENSIONS = "more than three dimensions", Remedy.CONVERT_SERIES
    SMALL_FIELD = "field of view is too small", Remedy.CONVERT_SERIES
    SINGULAR_AFFINE = "affine is singular", Remedy.CONVERT_FROM_DICOM
    TWO_PLACES = "sform and qform disagree", Remedy.CONVERT_FROM_DICOM
    OFF_GRID = "nothing of the image lies on the grid", Remedy.CONVERT_FROM_DICOM
    NOT_FINITE_VOXELS = "voxels are not all finite numbers", Remedy.LOOK
    ZERO_VOXELS = "all voxels are zero", Remedy.LOOK
    EQUAL_VOXELS = "all non-zero voxels are equal", Remedy.LOOK
    NOT_SUVR = "values are no uptake ratios (SUVR)", Remedy.LOOK
    OTHER_KIND = "image of another kind than the training's", Remedy.PREPARE
    UNLIKE_OTHERS = "image unlike the site's others of its modality", Remedy.PREPARE

    # Scores.
    NO_BASELINE = "no baseline CDR-SB", Remedy.COMPARE_SCORES
    IMPOSSIBLE_BASELINE = "baseline CDR-SB is not a number from 0 to 18", Remedy.COMPARE_SCORES
    IMPOSSIBLE_SCORE = "CDR-SB is not a number from 0 to 18", Remedy.COMPARE_SCORES
    IMPOSSIBLE_OUTCOME = "CDR-SB at the horizon is not a number from 0 to 18", Remedy.COMPARE_SCORES
    IMPOSSIBLE_HORIZON = "horizon is not a positive number of months", Remedy.COMPARE_SCORES

    # Everything else about a row or a visit.
    NO_IDENTITY = "no subject_id or no site", Remedy.COMPLETE_ROWS
    NO_CHANGE = "no change in CDR-SB", Remedy.COMPLETE_ROWS
    IMPOSSIBLE_AGE = "age is not a number of years", Remedy.COMPLETE_ROWS
    INCOMPLETE_NUMBERS = "a value is missing or not a finite number", Remedy.COMPLETE_ROWS
    NO_MODALITY = "no modality that can be used", Remedy.COMPLETE_ROWS
    NO_CLINICAL_VISIT = "images but no clinical visit", Remedy.COMPLETE_ROWS
    NO_MODALITY_IN_TIME = "no modality near a visit with an accepted diagnosis and CDR-SB", Remedy.COMPLETE_ROWS
    NO_DIAGNOSIS_IN_TIME = "no CDR-SB at a visit with an accepted diagnosis", Remedy.COMPLETE_ROWS
    NO_PTID = "no PTID, which tells the site", Remedy.COMPLETE_ROWS
    UNDATED_VISIT = "clinical visit without a date", Remedy.COMPLETE_ROWS
    UNDATED_IMAGE = "image without a date", Remedy.COMPLETE_ROWS
    LOST_FROM_SIGHT = "outcome unknown: lost from sight before the horizon", Remedy.COMPLETE_ROWS

"""Why a visit, a modality of one, or an image is left out, each reason with what to do next.

A reason is a category: it holds no identifier, path or measured value, so that counts of it may be logged.
"""

from __future__ import annotations

from enum import StrEnum


class Remedy(StrEnum):
    """What to do next; reasons with the same remedy belong together."""

    MOUNT = "mount the images and let this account read them, or mend the paths in the table"
    COPY = "copy them again from their source"
    CONVERT_SERIES = "convert the right series again; average dynamic PET first"
    CONVERT_FROM_DICOM = "convert them again from DICOM"
    LOOK = "look at them; PET has to be SUVR, as pet_linear writes it"
    PREPARE = "look at them; prepare them as the others are: skull removed, registered, each under its modality"
    PREPARE_AS_MODEL = (
        "prepare their scans by 'permmoe data prepare', as the model says; where nothing is known, and they were "
        "prepared so, say it by --images-are-prepared, or images_are_prepared in site.yaml"
    )
    LIST_TRACER = "nothing, or list their tracer under 'tracers' of the modality of a model that is to read it"
    EXPORT_AGAIN = "export the whole series again from the archive, uncompressed, under one patient's identifier"
    NAME_SERIES = "nothing, or name the series or its tracer by --series-rules or in the image's JSON sidecar"
    CHOOSE_SERIES = "export all frames of the scan, with their times; or exclude others by --series-rules"
    DATE_SESSIONS = "date them in BIDS' scans.tsv or sessions.tsv (acq_time), or name each visit's session in --scores"
    CHECK_SCAN = "look at the scan: it has to show one whole head, and be of the modality that it is given as"
    GIVE_FRAMES = "give FrameTimesStart and FrameDuration, seconds, one number a frame, in the image's JSON sidecar"
    JOIN_FRAMES = (
        "put all frames of the scan together, and give FrameTimesStart and FrameDuration, seconds from one start, in "
        "the JSON sidecar of each; of repetitions or reconstructions keep one, without the number of a run or frame"
    )
    CHECK_DATES = "compare the dates with their source"
    ADD_T1 = "add a T1 of the same visit, or of one within 400 days, to the scans, and prepare again"
    LOOK_AT_SHEET = "look at their contact sheets in qc.html; mend the source, or leave them out"
    RENAME = "give each subject a name of its own in letters and digits"
    COMPARE_SCORES = "compare the scores with their source"
    COMPLETE_ROWS = "complete these rows, or take them for lost"
    COMPARE_ROWS = "compare these rows with their source, and correct or remove the wrong one"


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
    FILE_NOT_OPENED = "file cannot be opened or read", Remedy.MOUNT
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
    OTHER_PREPARATION = "prepared in another way than the model's images", Remedy.PREPARE_AS_MODEL
    UNREAD_TRACER = "PET of a tracer that the model does not read", Remedy.LIST_TRACER
    UNKNOWN_PREPARATION = "nothing says how it was prepared", Remedy.PREPARE_AS_MODEL
    OTHER_KIND = "image of another kind than the training's", Remedy.PREPARE
    UNLIKE_OTHERS = "image unlike the site's others of its modality", Remedy.PREPARE

    # Scans that are prepared (permmoe.preparation.images).
    TWO_SUBJECTS_ONE_LABEL = "two subjects whose names differ in punctuation alone", Remedy.RENAME
    NOT_A_HEAD = "no brain is found in it", Remedy.CHECK_SCAN
    NO_BRAIN_WITHOUT_T1 = "no brain is found in it, and there is no T1 to tell where it is", Remedy.ADD_T1
    NO_REFERENCE = "the reference region is outside of the scan, or empty", Remedy.CHECK_SCAN
    NO_REGISTRATION = "no map to the template, or to the T1, is found", Remedy.CHECK_SCAN

    # Scans that are looked for (permmoe.preparation.sources).
    TOO_FEW_SLICES = "too few slices for a head", Remedy.CONVERT_SERIES
    SEVERAL_ECHOES = "several echoes in one series", Remedy.CONVERT_SERIES
    EMPTY_FOLDER = "folder is empty", Remedy.COPY
    LOCALISER = "localiser or calibration scan", Remedy.NAME_SERIES
    DERIVED = "derived from other images", Remedy.NAME_SERIES
    OTHER_SERIES = "series of no kind that is looked for", Remedy.NAME_SERIES
    OTHER_TRACER = "PET tracer shows neither amyloid nor tau, or is not told", Remedy.NAME_SERIES
    TWO_TRACERS = "two different PET tracers are named", Remedy.NAME_SERIES
    NO_FRAME_TIMES = "PET has several frames and no frame times", Remedy.GIVE_FRAMES
    OTHER_FRAME_TIMES = "frame times are not those of the frames", Remedy.GIVE_FRAMES
    FRAMES_APART = "PET series of one tracer and day whose times do not make one scan", Remedy.CHOOSE_SERIES
    FRAME_FILES_APART = "PET files that may be frames, and whose times do not make one scan", Remedy.JOIN_FRAMES
    FUTURE_DATE = "dated in the future", Remedy.CHECK_DATES
    MISSING_SLICES = "slices are missing", Remedy.EXPORT_AGAIN
    TRUNCATED_DICOM = "DICOM file is truncated or damaged", Remedy.EXPORT_AGAIN
    NOT_DECODED = "compressed in a way that cannot be decoded", Remedy.EXPORT_AGAIN
    NOT_CONVERTED = "dcm2niix makes no image of it", Remedy.EXPORT_AGAIN
    SEVERAL_IMAGES = "dcm2niix makes several images of it", Remedy.EXPORT_AGAIN
    TWO_PATIENTS = "two patients under one identifier", Remedy.EXPORT_AGAIN
    NO_PATIENT = "no patient identifier of letters or digits", Remedy.EXPORT_AGAIN

    # Prepared images (permmoe.preparation.quality).
    NO_BRAIN_SEEN = "no brain to be seen in the prepared image", Remedy.LOOK_AT_SHEET
    BAD_MASK = "mask is not a brain's", Remedy.LOOK_AT_SHEET
    UNSURE_WITHOUT_T1 = "its place in the template is not sure, and there is no T1 to tell it", Remedy.ADD_T1
    BAD_REGISTRATION = "not registered to the template", Remedy.LOOK_AT_SHEET
    MIRRORED = "left and right are exchanged", Remedy.LOOK_AT_SHEET
    OTHER_MODALITY = "contrast of another modality", Remedy.LOOK_AT_SHEET
    WRONG_UPTAKE = "uptake of the reference region is not plausible", Remedy.LOOK_AT_SHEET
    MOVED = "head moved between the frames", Remedy.LOOK_AT_SHEET

    # Scores.
    NO_BASELINE = "no score at the visit", Remedy.COMPARE_SCORES
    IMPOSSIBLE_BASELINE = "score at the visit is no number on its scale", Remedy.COMPARE_SCORES
    IMPOSSIBLE_SCORE = "score is no number on its scale", Remedy.COMPARE_SCORES
    IMPOSSIBLE_OUTCOME = "score at the horizon is no number on its scale", Remedy.COMPARE_SCORES
    TWO_NUMBERS_A_DAY = "two different numbers of one day", Remedy.COMPARE_SCORES
    OTHER_SIDE = "code and date of an earlier or later visit contradict each other", Remedy.CHECK_DATES
    NOT_BEFORE = "history does not begin before the visit", Remedy.CHECK_DATES
    IMPOSSIBLE_HORIZON = "horizon is not a positive number of months", Remedy.COMPARE_SCORES

    # Everything else about a row or a visit.
    NO_IDENTITY = "no subject_id or no site", Remedy.COMPLETE_ROWS
    NO_CHANGE = "no change of the score", Remedy.COMPLETE_ROWS
    IMPOSSIBLE_AGE = "age is not a number of years", Remedy.COMPLETE_ROWS
    INCOMPLETE_NUMBERS = "a value is missing or not a finite number", Remedy.COMPLETE_ROWS
    NO_MODALITY = "no modality that can be used", Remedy.COMPLETE_ROWS
    NO_CLINICAL_VISIT = "images but no clinical visit", Remedy.COMPLETE_ROWS
    NO_MODALITY_IN_TIME = "no modality near a visit with an accepted diagnosis and a score", Remedy.COMPLETE_ROWS
    NO_DIAGNOSIS_IN_TIME = "no score at a visit with an accepted diagnosis", Remedy.COMPLETE_ROWS
    NO_RID = "row without RID and PTID", Remedy.COMPLETE_ROWS
    TWO_PEOPLE = "tables tell of two people under one identifier", Remedy.COMPARE_ROWS
    NO_PTID = "no PTID, which tells the site", Remedy.COMPLETE_ROWS
    UNDATED_VISIT = "clinical visit without a date", Remedy.COMPLETE_ROWS
    UNDATED_SESSIONS = "several sessions, and nothing tells which is the visit's", Remedy.DATE_SESSIONS
    UNDATED_IMAGE = "image without a date", Remedy.COMPLETE_ROWS
    LOST_FROM_SIGHT = "outcome unknown: lost from sight before the horizon", Remedy.COMPLETE_ROWS

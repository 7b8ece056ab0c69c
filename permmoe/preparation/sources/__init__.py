"""Where scans come from: folders of DICOM, LONI's downloads, BIDS, CAPS and single files."""

from permmoe.preparation.sources.files import scan_of_file
from permmoe.preparation.sources.finding import find_scans
from permmoe.preparation.sources.found import FoundScans

__all__ = ["FoundScans", "find_scans", "scan_of_file"]

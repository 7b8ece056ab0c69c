"""Where scans come from: folders of DICOM, LONI's downloads, BIDS, CAPS and single files."""

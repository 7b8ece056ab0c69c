"""What is computed of scans: brain mask, bias field, registration, uptake ratios; arrays in, arrays out."""

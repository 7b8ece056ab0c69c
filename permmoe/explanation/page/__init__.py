"""One prediction as a page for people: read it in a browser, print it, keep it with the patient's record."""

"""`permmoe-client --check`: what a hospital can look at before its site connects. It reads, and changes nothing."""

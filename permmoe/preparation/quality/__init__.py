"""Whether a preparation went right: metrics, outliers, pictures for people."""

"""From files as people hold them to batches of tensors: tables -> visits -> volumes -> cache -> batches."""

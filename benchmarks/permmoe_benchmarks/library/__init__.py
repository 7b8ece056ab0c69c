"""What measurements share: scales, inputs, clocks, processes, the reference implementation, thin sites."""

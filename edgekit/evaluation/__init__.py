"""A whole data set through devices: task accuracy, latency, every output that is not the host's."""

"""MLPerf Tiny: the firmware that its runner drives, and a runner that drives such firmware."""

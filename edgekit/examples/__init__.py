"""Models that travel with edgekit, each with the script that made it."""

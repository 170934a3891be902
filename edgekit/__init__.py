"""edgekit: from a trained model to a measured binary on an edge device."""

__version__ = "0.1.0"

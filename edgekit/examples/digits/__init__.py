"""A digit classifier for 8x8 images: data, trained model and converted model."""

"""Smaller models: each technique in a file of its own, stacked by a recipe.

:func:`edgekit.compress.pipeline.compress` does all of it. TensorFlow is imported only inside
functions. What is trained is a Keras model of either generation, or, where the file holds no
Keras model, one that is read out of its float graph (``lift``).
"""

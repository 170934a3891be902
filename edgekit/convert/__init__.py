"""From a trained model to a full-integer ``.tflite`` file that is proven to be one.

:func:`edgekit.convert.pipeline.convert` does all of it. TensorFlow is imported only by
``frameworks`` (and with it ``sources`` and ``quantize``), and only when a model needs it.
"""

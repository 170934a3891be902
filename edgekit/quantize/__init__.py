"""edgekit's own quantiser: a float ``.tflite`` graph and samples become a full-integer model.

Decided first, applied later::

    prepare.py     float model -> a graph of float32 constants and fixed shapes
    policy.py      what each operator needs, as data
    scheme.py      which tensors share a scale, which operators compute in which form
    calibrate.py   values of every tensor over samples
    ranges/        values -> ranges, one way a file
    plan.py        a scale and zero point for everything
    write.py       graph + plan -> .tflite

Techniques work on the graph or the plan: ``equalize``, ``bias_correction``,
``adaptive_rounding``, ``mixed``; ``sensitivity`` measures. They compute in TensorFlow
(``operators``, ``execute``), rounded as TensorFlow Lite Micro's kernels round (``simulate``,
``exact``). ``qat`` is the same graph with variables, for training.

``quantizer.quantize`` does all of it. TensorFlow is imported only where graphs are computed.
"""

"""Runs a compiled model on a Coral board and prints one JSON line.

This file is copied to the board and run by its Python (3.5 and later, so no newer syntax), with
the packages that Mendel Linux brings. Usage: remote_runner.py MODEL WARMUPS RUNS [INPUTS]
"""

# mypy: allow-untyped-defs, allow-untyped-calls

import base64
import ctypes
import json
import sys
import time

LIBRARY = "libedgetpu.so.1"
#: Outputs larger than this are not sent back.
MAX_OUTPUT_BYTES = 1 << 20


def library_version():
    library = ctypes.CDLL(LIBRARY)
    library.edgetpu_version.restype = ctypes.c_char_p
    return (library.edgetpu_version() or b"").decode("utf-8", "replace")


def open_interpreter(path):
    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    except ImportError:
        from ai_edge_litert.interpreter import Interpreter, load_delegate
    delegate = load_delegate(LIBRARY)
    return Interpreter(model_path=path, experimental_delegates=[delegate])


def measure(path, warmups, runs, inputs):
    import numpy

    version = library_version()
    interpreter = open_interpreter(path)
    interpreter.allocate_tensors()
    arrays = []
    for detail in interpreter.get_input_details():
        shape, dtype = tuple(int(d) for d in detail["shape"]), numpy.dtype(detail["dtype"])
        count = int(numpy.prod(shape)) * dtype.itemsize
        chunk, inputs = inputs[:count], inputs[count:]
        chunk = chunk + b"\0" * (count - len(chunk))
        arrays.append((detail["index"], numpy.frombuffer(chunk, dtype).reshape(shape)))
    for index, array in arrays:
        interpreter.set_tensor(index, array)

    def once():
        start = time.perf_counter()
        interpreter.invoke()
        return (time.perf_counter() - start) * 1e6

    first = once()
    outputs = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    encoded = None
    if sum(array.nbytes for array in outputs) <= MAX_OUTPUT_BYTES:
        encoded = [base64.b64encode(array.tobytes()).decode() for array in outputs]
    for _ in range(warmups):
        once()
    times = [once() for _ in range(runs)]
    return {
        "library": version,
        "first_us": first,
        "latencies_us": times,
        "outputs": encoded,
    }


def main():
    inputs = b""
    if len(sys.argv) > 4:
        with open(sys.argv[4], "rb") as file:
            inputs = file.read()
    try:
        answer = measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), inputs)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

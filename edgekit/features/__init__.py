"""What is computed of raw data before a model sees it, the same here and on a device.

Each file has a counterpart in C under ``firmware/include``; a test compares them.
"""

"""A folder for PYTHONPATH, see :mod:`edgekit.flashers._modem_lines`."""

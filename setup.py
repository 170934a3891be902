"""Finds the packages; everything else is in ``setup.cfg``."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["edgekit", "edgekit.*"]),
        # data of the top level that travels inside the package (see edgekit/resources.py)
        "edgekit._targets",
        "edgekit._firmware",
    ]
)

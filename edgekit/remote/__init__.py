"""Models on Linux boards over ssh and on Android over adb, measured by programs copied there.

:mod:`~edgekit.remote.linux` and :mod:`~edgekit.remote.android` measure; the rest knows one
program or one format each. Nothing of edgekit is installed on a device: the folder that is made
there can be deleted at any time.
"""

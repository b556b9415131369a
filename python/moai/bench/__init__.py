"""The main job: train a byte-level language model on a device and report how it went.

``moai bench`` on the command line; :func:`moai.bench.job.run` from Python.
"""

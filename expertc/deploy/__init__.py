"""Bring experts onto devices over SSH.

``agent`` and ``bootstrap`` run on the device, what connects to it runs here; ``protocol`` is what they say.
"""

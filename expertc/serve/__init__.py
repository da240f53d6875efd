"""The device's service: an expert over HTTP, which follows the release that is active without dropping a request.

It speaks the Open Inference Protocol, answers photos at ``/predict`` and Prometheus at ``/metrics``; ``server.serve``
runs it, ``unit.unit`` writes the systemd unit that does. Needs the extra ``serve``, but for the unit.
"""

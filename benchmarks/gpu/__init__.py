"""TensorRT on a real GPU: builds, numbers and latencies of experts, prepared on a machine that has none.

``prepare`` makes a folder of a few megabytes on a machine with torch; ``run`` needs Python 3.10 or newer, numpy,
TensorRT and this checkout beside it, no network and nobody who watches: it works in steps, stops in time, and goes on
where it stopped; ``table`` writes what came of it as Markdown.
"""

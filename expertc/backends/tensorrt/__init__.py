"""TensorRT, 8.5 to 11: compiles an expert to a plan, and runs it.

TensorRT itself is imported by ``library.load`` and nowhere else, and only when something is compiled or run.
"""

"""The passes: ONNX to ONNX. Demand analysis and the cut, then folding; each writes a new graph and changes no other."""

"""int8 networks: quantised ONNX files read into a short list of layers, computed with ONNX Runtime's integers.

`reference` says in NumPy what a network gives, `emission` writes the C that gives the same on a device. See
docs/adr/0011.
"""

"""Learning: small networks from labelled examples, by a recipe: teacher, distilled student, int8, gate, card.

PyTorch trains (one door, `training`), ONNX Runtime quantises and is compared with (`onnx_runtime`); what comes out is
an ONNX file that `ganglion.kernels.networks` reads, with ONNX Runtime's integers. See docs/adr/0022.
"""

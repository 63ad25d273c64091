"""C for kernels: where values live, the source text, compilers, and loaded libraries."""

"""TopK SAEs on a CPU, many times as fast as dense autograd: numba, and LLVM vector instructions where it matters."""

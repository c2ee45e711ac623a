"""Vector instructions for the kernels, written as LLVM's intermediate code."""

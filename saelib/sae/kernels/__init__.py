"""TopK, BatchTopK and Matryoshka SAEs on a CPU, many times as fast as dense autograd.

numba compiles the kernels; their inner loops are LLVM vector instructions.

A step: a block of tokens is multiplied and `select` takes the k largest of each row while the block is in cache: in
float32 (`forward`, `gemm`), or where that is faster from candidates found in 16-bit integers (`screen`, `integers`),
which selects the same. Decoding, the error and the gradients of codes follow in one pass (`forward`, `passes`);
`entries` puts the codes in the order of latents, `sums` adds up what the gradients of their weights are made of, and
`latents` moves them and packs them again. `auxk` does the same for dead latents. `small`, `small_pass` and `small_auxk`
do all of it a tile of tokens at a time, with `columns` for the selection. No tensor of [batch, d_sae] is ever made.

`large.KernelTrainer`, `small.SmallKernelTrainer`, `batch_topk.BatchTopKTrainer` and `matryoshka.MatryoshkaTrainer` are
the trainers (`topk_trainer`: what they share), `llvm/` holds the loops spelled out in LLVM's language, `compiled`,
`cpu` and `threads` how and where all this runs. Importing this package alone needs no numba.
"""

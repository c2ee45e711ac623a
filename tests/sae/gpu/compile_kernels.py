"""Compiles every kernel for a GPU generation, without a GPU, and prints what each needs, as JSON. Run by a test.

python -m tests.sae.gpu.compile_kernels 90
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saelib.sae.gpu import batch_select, biases, decode, rows, select
from saelib.sae.gpu.launch import ROWS, WIDEST, WIDEST_ROW, power_of_two, warps

WIDTHS = (768, WIDEST_ROW)
FLOATS, INTEGERS, FLAGS = "*fp32", "*i32", "*i8"
KINDS = {
    **dict.fromkeys(
        ("names", "latents", "rows", "order", "starts", "places", "step", "counts", "above", "tied"), INTEGERS
    ),
    **dict.fromkeys(("prefix", "bar", "before", "room"), INTEGERS),
    **dict.fromkeys(("positive", "fired"), FLAGS),
    **dict.fromkeys(("n", "d", "saes", "tokens", "width", "shift"), "i32"),
    **dict.fromkeys(("scale", "beta1", "fresh1", "beta2", "fresh2", "epsilon", "rounding"), "fp32"),
}
"""Types of arguments by name; all others are pointers to float32."""


def cases() -> Iterator[tuple[str, Any, dict[str, Any], int]]:
    """Name, kernel, constants and warps of what is launched for large SAEs."""
    for n in (512, WIDEST):
        constants = {"K": 64, "SLOTS": 64, "N": n, "FIRST": True, "LAST": True}
        yield f"select {n}", select.select_kernel, constants, warps(n)
        for kernel in (batch_select.digits_kernel, batch_select.count_kernel, batch_select.write_kernel):
            bits = {"BITS": batch_select.DIGIT} if kernel is batch_select.digits_kernel else {}
            yield f"{kernel.fn.__name__} {n}", kernel, {"N": n} | bits, warps(n)
    yield "biases", biases.biases_kernel, {"E": biases.TOGETHER}, 1
    for sparse in (False, True):
        name = f"moved biases{', sparse' if sparse else ''}"
        yield name, biases.move_kernel, {"N": biases.PIECE, "SPARSE": sparse}, 4
    for d in WIDTHS:
        D = power_of_two(d)
        yield f"decode {d}", decode.decode_kernel, {"D": D, "J": ROWS}, warps(D)
        for sparse in (False, True):
            constants = {"D": D, "E": ROWS, "PROJECT": True, "SPARSE": sparse, "MORE": sparse}
            yield f"rows {d}{' sparse, auxk' if sparse else ''}", rows.rows_kernel, constants, warps(D)


def compiled(kernel: Any, constants: Mapping[str, Any], n_warps: int, capability: int) -> Any:
    """A kernel as Triton compiles it when all pointers and sizes are multiples of 16, as those of large SAEs are."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else KINDS.get(name, FLOATS) for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name][0] == "*" or name in ("n", "d", "width")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": n_warps})


def needs(found: Any) -> dict[str, int]:
    """Registers of a thread, bytes of spilled registers, shared memory, and the widest load in bits."""
    tool = next(Path(triton.__file__).parent.rglob("cuobjdump"))
    with TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(found.asm["cubin"])
        usage = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1]
    (local,) = re.findall(r"LOCAL:(\d+)", usage)[-1:]
    vectors = [int(width) for width in re.findall(r"ld\.global\S*\.v(\d)\.b32", found.asm["ptx"])]
    return {
        "registers": int(registers),
        "spilled": int(stack) + int(local),
        "shared": found.metadata.shared,
        "widest_load": 32 * max(vectors, default=1),
    }


if __name__ == "__main__":
    capability = int(sys.argv[1])
    print(json.dumps({name: needs(compiled(*case, capability)) for name, *case in cases()}))

"""One token forwards and backwards through its selected latents, by pieces of its row that fit the registers."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from saelib.sae.kernels.llvm.vector import (
    FLOAT,
    INT64,
    LANES,
    ZERO,
    call,
    fma,
    load,
    loop,
    pointer,
    splat,
    store,
)

PIECE = 4
"""Vectors of a row that are handled together; what remains is done one at a time."""


def _decode(vectors: int) -> Any:
    @intrinsic
    def decode(_, signal, row, scale, center, codes, indices, start, count, W_dec, code_grads, token, totals, column):
        """Centers a piece of a token, decodes its codes, and adds the piece's share to the gradients of the codes.

        Args:
            signal: float32 [.., width]
            row: The token's row.
            scale: The token is scale * signal[row] + center.
            center: [width]
            codes: float32, flat; those of the token are `count` from `start`.
            indices: int32, the same; their latents.
            start: First code.
            count: Number of codes.
            W_dec: [d_sae, width]
            code_grads: float32 like `codes`; <error, W_dec row> is added.
            token: [2, width]; the centered token and the error are written.
            totals: [2, width]; the error and its square are added.
            column: First column of the piece.
        """
        integer = types.int64
        token_in = (signal, integer, types.float32, center)
        signature = types.void(*token_in, codes, indices, integer, integer, W_dec, code_grads, token, totals, integer)

        def generate(context, b, signature, values):
            signal, center, codes, indices, W_dec, code_grads, token, totals = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 3, 4, 5, 8, 9, 10, 11)
            )
            row, start, count, column = (values[i] for i in (1, 6, 7, 12))
            width = context.make_array(signature.args[8])(context, b, values[8])
            width = b.extract_value(width.shape, 1)
            place, scale = b.add(b.mul(row, width), column), splat(b, values[2])
            second = b.add(width, column)
            minus = []
            for v in range(vectors):
                centered = fma(b, scale, load(b, signal, place, v), load(b, center, column, v))
                store(b, centered, token, column, v)
                minus.append(b.fneg(centered))

            def latent_row(q):
                index = b.sext(b.load(b.gep(indices, [b.add(start, q)])), INT64)
                return b.add(b.mul(index, width), column)

            def add_row(q, error):
                code, at = splat(b, b.load(b.gep(codes, [b.add(start, q)]))), latent_row(q)
                return [fma(b, code, load(b, W_dec, at, v), error[v]) for v in range(vectors)]

            error = loop(b, count, minus, add_row)
            for v in range(vectors):
                store(b, error[v], token, second, v)
                store(b, b.fadd(error[v], load(b, totals, column, v)), totals, column, v)
                store(b, fma(b, error[v], error[v], load(b, totals, second, v)), totals, second, v)

            def project(q, state):
                at, products = latent_row(q), ZERO
                for v in range(vectors):
                    products = fma(b, error[v], load(b, W_dec, at, v), products)
                place = b.gep(code_grads, [b.add(start, q)])
                add = f"llvm.vector.reduce.fadd.v{LANES}f32"
                b.store(call(b, add, FLOAT, b.load(place), products, fastmath=("reassoc",)), place)
                return state

            loop(b, count, [], project)
            return context.get_dummy_value()

        return signature, generate

    return decode


def _scatter(vectors: int) -> Any:
    @intrinsic
    def scatter(_, codes, code_grads, indices, start, count, token, to_decoder, to_encoder, first, column):
        """Adds a piece of a token to the gradients of the rows of its latents.

        Args:
            codes: float32, flat; those of the token are `count` from `start`.
            code_grads: float32, the same.
            indices: int32, the same; their latents.
            start: First code.
            count: Number of codes.
            token: [2, width]; the centered token and its error.
            to_decoder: [.., d_sae, width]; code * error is added to its latent's row.
            to_encoder: The same with code_grad * centered token.
            first: Position of latent 0 in them.
            column: First column of the piece.
        """
        integer = types.int64
        entries = (codes, code_grads, indices, integer, integer)
        signature = types.void(*entries, token, to_decoder, to_encoder, integer, integer)

        def generate(context, b, signature, values):
            codes, code_grads, indices, token, to_decoder, to_encoder = (
                pointer(context, b, signature.args[i], values[i]) for i in (0, 1, 2, 5, 6, 7)
            )
            start, count, first, column = (values[i] for i in (3, 4, 8, 9))
            shape = context.make_array(signature.args[5])(context, b, values[5]).shape
            width = b.extract_value(shape, 1)
            centered = [load(b, token, column, v) for v in range(vectors)]
            error = [load(b, token, b.add(width, column), v) for v in range(vectors)]

            def add(q, state):
                entry = b.add(start, q)
                index = b.sext(b.load(b.gep(indices, [entry])), INT64)
                place = b.add(first, b.add(b.mul(index, width), column))
                code, slope = (splat(b, b.load(b.gep(base, [entry]))) for base in (codes, code_grads))
                for v in range(vectors):
                    store(b, fma(b, code, error[v], load(b, to_decoder, place, v)), to_decoder, place, v)
                    store(b, fma(b, slope, centered[v], load(b, to_encoder, place, v)), to_encoder, place, v)
                return state

            loop(b, count, [], add)
            return context.get_dummy_value()

        return signature, generate

    return scatter


decode_piece, decode_vector = (_decode(vectors) for vectors in (PIECE, 1))
scatter_piece, scatter_vector = (_scatter(vectors) for vectors in (PIECE, 1))

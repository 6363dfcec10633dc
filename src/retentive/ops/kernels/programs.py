"""Chunkwise retention as Triton programs. `retentive.ops.kernels.launch` runs them and says what they take.

A program reads and writes tiles. Tensors are contiguous, a row for each token, and what lies outside of them is read as
0. Tiles are loaded in the order in which a product takes them, so that none is transposed in registers.

Names of constants: TIME tokens, in CHUNKS of SIZE; KEYS and VALUES are the dimensions of a head, of which a tile has
BLOCK_KEYS and BLOCK_VALUES; DECAYS is the number of heads, or of heads of all rows, that have decays of their own.
Products are of dtype PRODUCT, and are summed in that of the decays, WIDE.
"""
# pyright: basic, reportMissingImports=false

import torch
import triton
import triton.language as tl

PRODUCTS = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}
"""Names of dtypes of products in programs."""


@triton.jit
def tile(tensor, row, column, rows, columns):
    """Numbers of a matrix at rows and columns that are broadcast; 0 outside."""
    return tl.load(tensor + row * columns + column, mask=(row < rows) & (column < columns), other=0.0)


@triton.jit
def put(tensor, row, column, rows, columns, numbers):
    """Write a tile, as far as it is inside."""
    numbers = numbers.to(tensor.dtype.element_ty)
    tl.store(tensor + row * columns + column, numbers, mask=(row < rows) & (column < columns))


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """Add a matrix product to a total, in the dtype of the total."""
    return tl.dot(left, right, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def weights(clock, fine, query, key):
    """``exp(clock[query] - clock[key])`` of one chunk, 0 for later keys; the clock comes in two parts."""
    elapsed = tl.load(clock + query) - tl.load(clock + key) + (tl.load(fine + query) - tl.load(fine + key))
    return tl.where(query >= key, tl.exp(tl.minimum(elapsed, 0.0)), 0.0)


@triton.jit
def own_chunk(DECAYS, CHUNKS, SIZE: tl.constexpr):
    """This program's chunk among those of all heads, its head, where its decays begin, and places of its tokens."""
    at = tl.program_id(0).to(tl.int64)
    head, chunk = at // CHUNKS, at % CHUNKS
    place = tl.arange(0, SIZE)
    return at, head, ((head % DECAYS) * CHUNKS + chunk) * SIZE, place, (chunk * SIZE + place).to(tl.int32)


@triton.jit
def without_diagonal(square, place):
    """The diagonal of a square, and the square with zeros there."""
    own = place[:, None] == place[None, :]
    return tl.sum(tl.where(own, square, 0.0), 1), tl.where(own, 0.0, square)


@triton.jit
def carry_states(
    keys,
    values,
    token_decay,
    chunk_decay,
    first,
    states,
    last,
    DECAYS,
    TIME,
    CHUNKS,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    BACKWARDS: tl.constexpr,
):
    """Write the state that each chunk meets, and the last; backwards, of queries and ``d_output``, their gradients."""
    head = tl.program_id(0).to(tl.int64)
    WIDE: tl.constexpr = token_decay.dtype.element_ty
    decays = (head % DECAYS) * CHUNKS
    row = tl.program_id(1) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)[:, None]
    column = tl.program_id(2) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)[None, :]
    place = tl.arange(0, SIZE)
    state = tl.zeros((BLOCK_KEYS, BLOCK_VALUES), WIDE)
    if HAS_FIRST:
        state += tile(first + head * KEYS * VALUES, row, column, KEYS, VALUES)
    for step in range(CHUNKS):
        chunk = CHUNKS - 1 - step if BACKWARDS else step
        put(states + (head * CHUNKS + chunk) * KEYS * VALUES, row, column, KEYS, VALUES, state)
        token = chunk * SIZE + place
        key = tile(keys + head * TIME * KEYS, token[None, :], row, TIME, KEYS)
        value = tile(values + head * TIME * VALUES, token[:, None], column, TIME, VALUES)
        faded = key.to(WIDE) * tl.load(token_decay + decays * SIZE + token)[None, :]
        state *= tl.load(chunk_decay + decays + chunk)
        state = product(faded.to(PRODUCT), value.to(PRODUCT), state, PRECISION)
    put(last + head * KEYS * VALUES, row, column, KEYS, VALUES, state)


@triton.jit
def read_outputs(
    queries,
    keys,
    values,
    states,
    query_decay,
    clock,
    fine,
    outputs,
    DECAYS,
    TIME,
    CHUNKS,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write one chunk's outputs: what its queries read of the state, and of the keys of the chunk."""
    WIDE: tl.constexpr = clock.dtype.element_ty
    at, head, decays, place, token = own_chunk(DECAYS, CHUNKS, SIZE)
    column = tl.program_id(1) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)[None, :]
    scores = tl.zeros((SIZE, SIZE), WIDE)
    output = tl.zeros((SIZE, BLOCK_VALUES), WIDE)
    for begin in range(0, KEYS, BLOCK_KEYS):
        dim = begin + tl.arange(0, BLOCK_KEYS)
        query = tile(queries + head * TIME * KEYS, token[:, None], dim[None, :], TIME, KEYS).to(PRODUCT)
        key = tile(keys + head * TIME * KEYS, token[None, :], dim[:, None], TIME, KEYS).to(PRODUCT)
        state = tile(states + at * KEYS * VALUES, dim[:, None], column, KEYS, VALUES).to(PRODUCT)
        scores = product(query, key, scores, PRECISION)
        output = product(query, state, output, PRECISION)
    output *= tl.load(query_decay + decays + place)[:, None]
    scores *= weights(clock + decays, fine + decays, place[:, None], place[None, :])
    value = tile(values + head * TIME * VALUES, token[:, None], column, TIME, VALUES).to(PRODUCT)
    output = product(scores.to(PRODUCT), value, output, PRECISION)
    put(outputs + head * TIME * VALUES, token[:, None], column, TIME, VALUES, output)


@triton.jit
def value_gradients(
    queries,
    keys,
    d_outputs,
    d_states,
    key_decay,
    clock,
    fine,
    d_values,
    DECAYS,
    TIME,
    CHUNKS,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write one chunk's gradients of the values: through the state after the chunk, and through its own outputs."""
    WIDE: tl.constexpr = clock.dtype.element_ty
    at, head, decays, place, token = own_chunk(DECAYS, CHUNKS, SIZE)
    column = tl.program_id(1) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)[None, :]
    scores = tl.zeros((SIZE, SIZE), WIDE)  # of keys (first) and queries
    d_value = tl.zeros((SIZE, BLOCK_VALUES), WIDE)
    for begin in range(0, KEYS, BLOCK_KEYS):
        dim = begin + tl.arange(0, BLOCK_KEYS)
        key = tile(keys + head * TIME * KEYS, token[:, None], dim[None, :], TIME, KEYS).to(PRODUCT)
        query = tile(queries + head * TIME * KEYS, token[None, :], dim[:, None], TIME, KEYS).to(PRODUCT)
        d_state = tile(d_states + at * KEYS * VALUES, dim[:, None], column, KEYS, VALUES).to(PRODUCT)
        scores = product(key, query, scores, PRECISION)
        d_value = product(key, d_state, d_value, PRECISION)
    d_value *= tl.load(key_decay + decays + place)[:, None]
    scores *= weights(clock + decays, fine + decays, place[None, :], place[:, None])
    d_output = tile(d_outputs + head * TIME * VALUES, token[:, None], column, TIME, VALUES).to(PRODUCT)
    d_value = product(scores.to(PRODUCT), d_output, d_value, PRECISION)
    put(d_values + head * TIME * VALUES, token[:, None], column, TIME, VALUES, d_value)


@triton.jit
def query_gradients(
    queries,
    keys,
    values,
    d_outputs,
    states,
    query_decay,
    clock,
    fine,
    d_queries,
    read,
    DECAYS,
    TIME,
    CHUNKS,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_DECAY: tl.constexpr,
):
    """Write one chunk's gradients of the queries, and what each reads of all but its own key, times the gradient."""
    WIDE: tl.constexpr = clock.dtype.element_ty
    at, head, decays, place, token = own_chunk(DECAYS, CHUNKS, SIZE)
    dim = tl.program_id(1) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)[None, :]
    pairs = tl.zeros((SIZE, SIZE), WIDE)  # of queries (first) and keys
    d_query = tl.zeros((SIZE, BLOCK_KEYS), WIDE)
    for begin in range(0, VALUES, BLOCK_VALUES):
        column = begin + tl.arange(0, BLOCK_VALUES)
        d_output = tile(d_outputs + head * TIME * VALUES, token[:, None], column[None, :], TIME, VALUES).to(PRODUCT)
        value = tile(values + head * TIME * VALUES, token[None, :], column[:, None], TIME, VALUES).to(PRODUCT)
        state = tile(states + at * KEYS * VALUES, dim, column[:, None], KEYS, VALUES).to(PRODUCT)
        pairs = product(d_output, value, pairs, PRECISION)
        d_query = product(d_output, state, d_query, PRECISION)
    own, pairs = without_diagonal(pairs, place)
    pairs *= weights(clock + decays, fine + decays, place[:, None], place[None, :])
    key = tile(keys + head * TIME * KEYS, token[:, None], dim, TIME, KEYS)
    d_query *= tl.load(query_decay + decays + place)[:, None]
    d_query = product(pairs.to(PRODUCT), key.to(PRODUCT), d_query, PRECISION)
    if OF_DECAY:
        query = tile(queries + head * TIME * KEYS, token[:, None], dim, TIME, KEYS).to(WIDE)
        block = (tl.program_id(1) * tl.num_programs(0) + at) * SIZE
        tl.store(read + block + place, tl.sum(query * d_query, 1))
    put(d_queries + head * TIME * KEYS, token[:, None], dim, TIME, KEYS, d_query + own[:, None] * key.to(WIDE))


@triton.jit
def key_gradients(
    queries,
    keys,
    values,
    d_outputs,
    d_states,
    key_decay,
    clock,
    fine,
    d_keys,
    given,
    written,
    DECAYS,
    TIME,
    CHUNKS,
    SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_VALUES: tl.constexpr,
    PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
    OF_DECAY: tl.constexpr,
):
    """Write one chunk's gradients of the keys, and the shares in them of later queries and of the state after it."""
    WIDE: tl.constexpr = clock.dtype.element_ty
    at, head, decays, place, token = own_chunk(DECAYS, CHUNKS, SIZE)
    dim = tl.program_id(1) * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)[None, :]
    pairs = tl.zeros((SIZE, SIZE), WIDE)  # of keys (first) and queries
    later = tl.zeros((SIZE, BLOCK_KEYS), WIDE)
    for begin in range(0, VALUES, BLOCK_VALUES):
        column = begin + tl.arange(0, BLOCK_VALUES)
        value = tile(values + head * TIME * VALUES, token[:, None], column[None, :], TIME, VALUES).to(PRODUCT)
        d_output = tile(d_outputs + head * TIME * VALUES, token[None, :], column[:, None], TIME, VALUES).to(PRODUCT)
        d_state = tile(d_states + at * KEYS * VALUES, dim, column[:, None], KEYS, VALUES).to(PRODUCT)
        pairs = product(value, d_output, pairs, PRECISION)
        later = product(value, d_state, later, PRECISION)
    own, pairs = without_diagonal(pairs, place)
    pairs *= weights(clock + decays, fine + decays, place[None, :], place[:, None])
    query = tile(queries + head * TIME * KEYS, token[:, None], dim, TIME, KEYS)
    later *= tl.load(key_decay + decays + place)[:, None]
    soon = tl.zeros((SIZE, BLOCK_KEYS), WIDE)
    soon = product(pairs.to(PRODUCT), query.to(PRODUCT), soon, PRECISION)
    if OF_DECAY:
        key = tile(keys + head * TIME * KEYS, token[:, None], dim, TIME, KEYS).to(WIDE)
        block = (tl.program_id(1) * tl.num_programs(0) + at) * SIZE
        tl.store(given + block + place, tl.sum(key * soon, 1))
        tl.store(written + block + place, tl.sum(key * later, 1))
    d_key = soon + later + own[:, None] * query.to(WIDE)
    put(d_keys + head * TIME * KEYS, token[:, None], dim, TIME, KEYS, d_key)

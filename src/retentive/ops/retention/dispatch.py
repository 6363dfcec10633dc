"""The names of all forms: checks, padding and dtypes stand here once."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from retentive.ops.retention.chunks import DEFAULT_CHUNK_SIZE
from retentive.ops.retention.chunkwise import chunkwise
from retentive.ops.retention.decay_per_head import HeadDecay
from retentive.ops.retention.inputs import RetentionInputs, checked_inputs, resolve_log_decay
from retentive.ops.retention.parallel import parallel
from retentive.ops.retention.protocol import Decay
from retentive.ops.retention.recurrent import recurrent
from retentive.ops.retention.reference import reference
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenFlags, Values

Form = Literal["auto", "parallel", "recurrent", "chunkwise", "reference"]

Definition = Callable[[RetentionInputs], tuple[Values, RetentionMatrix]]
"""A form that is slow and plain, which the others are compared with."""


def retention(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: LogDecay | None = None,
    mask: TokenFlags = None,
    starts: TokenFlags = None,
    form: Form = "auto",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Values, RetentionMatrix]:
    """Run retention over a sequence in any of its forms, which all compute the same (Sun et al., arXiv:2307.08621).

    ``"auto"`` takes the recurrent form for one token and the chunkwise form for more: up to one chunk that is the
    parallel form with a leaner backward pass, beyond it the only one that is linear in time. ``"recurrent"`` goes
    token by token, ``"reference"`` is the definition, in float64.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head, at most 0; ``None`` takes `log_decay_geometric`.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.
        form: Changes speed, never results.
        chunk_size: Tokens per chunk of the chunkwise form.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider. A float16
        output is infinite only where the true value is beyond float16: all sums are float32.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit, ``log_decay`` is above 0, ``chunk_size`` is below 1, or ``form`` is unknown.
    """
    inputs = checked_inputs(query, key, value, state, (mask, starts))
    rate = resolve_log_decay(log_decay, query)
    return run_form(form, inputs, HeadDecay(rate), chunk_size, lambda inputs: reference(inputs, rate))


retention_parallel = partial(retention, form="parallel")
"""Run `retention` as one masked matrix product (Sun et al. 2023, arXiv:2307.08621, eq. 5).

The form to read, and to compare with; `retention_chunkwise` gives the same in linear time and memory. Its derivatives
can be taken any number of times.
"""

retention_chunkwise = partial(retention, form="chunkwise")
"""Run `retention` chunk by chunk (Sun et al. 2023, arXiv:2307.08621, eq. 7), for any length.

The backward pass keeps the inputs and one state per chunk, and computes the scores again. Where a gradient is
differentiated, and in compiled or functionally transformed code, plain operations take its place.
"""

retention_reference = partial(retention, form="reference")
"""Run `retention` as the paper defines it, in float64 whatever the inputs: slow; all forms are tested against it."""


def run_form(
    form: Form, inputs: RetentionInputs, decay: Decay, chunk_size: int, definition: Definition
) -> tuple[Values, RetentionMatrix]:
    """Run retention with any decay in one form.

    Raises:
        ValueError: If ``form`` is unknown, or ``chunk_size`` is below 1.
    """
    if form == "auto":
        form = "recurrent" if inputs.query.shape[2] == 1 else "chunkwise"
    if form == "parallel":
        output, after = parallel(inputs, decay)
    elif form == "recurrent":
        output, after = recurrent(inputs, decay)
    elif form == "chunkwise":
        output, after = chunkwise(inputs, decay, chunk_size)
    elif form == "reference":
        output, after = definition(inputs)
    else:
        raise ValueError(f'form must be "auto", "parallel", "recurrent", "chunkwise" or "reference", but is {form!r}.')
    return inputs.of_tokens(output), after

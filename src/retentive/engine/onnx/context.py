"""Retention by onnxruntime's own operator."""

import torch
from torch import Tensor

from retentive.engine.static.context import RingContext
from retentive.shapes import RetentionMatrix


class OnnxruntimeContext(RingContext):
    """Exports retention as ``com.microsoft.LinearAttention``, which reads and writes a state once.

    The standard operators that it stands for pass over the state seven times. Only onnxruntime has it.
    """

    def retain(
        self, query: Tensor, key: Tensor, value: Tensor, state: RetentionMatrix, decay: Tensor
    ) -> tuple[Tensor, RetentionMatrix]:
        """Return what `recurrent_step` returns, in a graph that is being exported."""
        batch, heads, _, value_dim = state.shape
        inputs = [tensor.reshape(batch, 1, -1) for tensor in (query, key, value)]
        log_decay = decay.log().reshape(-1, 1, heads).expand(batch, 1, heads)
        output, after = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::LinearAttention",
            (*inputs, state, log_decay),
            {"q_num_heads": heads, "kv_num_heads": heads, "update_rule": "gated", "scale": 1.0},
            dtypes=(value.dtype, state.dtype),
            shapes=((batch, 1, heads * value_dim), state.shape),
            version=1,
        )
        return output.view(batch, heads, value_dim), after

"""Both operators in all their forms, and random cases for them."""

import math
from collections.abc import Callable
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from ops.direct_sum import GATES, Case, random_case
from retentive.ops import gated_retention_recurrent, log_decay_geometric, log_decay_linspace, retention_recurrent
from retentive.ops.gated_retention import gated_retention
from retentive.ops.retention import retention

Form = Callable[..., tuple[Tensor, Tensor]]


def forms_of(operator: Form) -> dict[str, Form]:
    return {
        "parallel": partial(operator, form="parallel"),
        "recurrent": partial(operator, form="recurrent"),
        "chunkwise of 4": partial(operator, form="chunkwise", chunk_size=4),
        "chunkwise of 1": partial(operator, form="chunkwise", chunk_size=1),
        "auto": operator,
        "reference": partial(operator, form="reference"),
    }


FORMS = {"retention": forms_of(retention), "gated": forms_of(gated_retention)}
STEPS: dict[str, Form] = {"retention": retention_recurrent, "gated": gated_retention_recurrent}
KINDS = {"retention": {}, "gated": {"gates": "any"}}
"""What `random_case` is told for each operator."""

DECAYS = {
    "geometric": log_decay_geometric(2),
    "linspace": log_decay_linspace(2),
    "none and strong": torch.tensor([0.0, math.log(1e-6)], dtype=torch.float64),
    "half": torch.tensor([math.log(0.5), math.log(0.9)], dtype=torch.float64),
}


def _cases(**decays: st.SearchStrategy) -> st.SearchStrategy[Case]:
    return st.builds(
        random_case,
        seed=st.integers(0, 10_000),
        time=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9]),
        batch=st.integers(1, 2),
        heads=st.just(2),
        key_dim=st.sampled_from([1, 2, 3, 7]),
        value_dim=st.sampled_from([1, 2, 5]),
        state=st.booleans(),
        mask=st.booleans(),
        starts=st.booleans(),
        **decays,
    )


CASES = {
    "retention": _cases(log_decay=st.sampled_from(list(DECAYS.values()))),
    "gated": _cases(gates=st.sampled_from(list(GATES))),
}

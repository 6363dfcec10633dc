"""Gated retention in all its forms; `reference` is the definition."""

from retentive.ops.gated_retention.decay import log_decay_gate as log_decay_gate
from retentive.ops.gated_retention.decay import token_decay as token_decay
from retentive.ops.gated_retention.dispatch import gated_retention as gated_retention
from retentive.ops.gated_retention.dispatch import gated_retention_chunkwise as gated_retention_chunkwise
from retentive.ops.gated_retention.dispatch import gated_retention_parallel as gated_retention_parallel
from retentive.ops.gated_retention.dispatch import gated_retention_reference as gated_retention_reference
from retentive.ops.gated_retention.recurrent import gated_retention_recurrent as gated_retention_recurrent

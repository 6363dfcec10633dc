"""Retention in all its forms; `reference` is the definition."""

from retentive.ops.retention.chunks import DEFAULT_CHUNK_SIZE as DEFAULT_CHUNK_SIZE
from retentive.ops.retention.decay import log_decay_geometric as log_decay_geometric
from retentive.ops.retention.decay import log_decay_linspace as log_decay_linspace
from retentive.ops.retention.decay import score_scale as score_scale
from retentive.ops.retention.dispatch import Form as Form
from retentive.ops.retention.dispatch import retention as retention
from retentive.ops.retention.dispatch import retention_chunkwise as retention_chunkwise
from retentive.ops.retention.dispatch import retention_parallel as retention_parallel
from retentive.ops.retention.dispatch import retention_reference as retention_reference
from retentive.ops.retention.recurrent import recurrent_decay as recurrent_decay
from retentive.ops.retention.recurrent import recurrent_step as recurrent_step
from retentive.ops.retention.recurrent import retention_recurrent as retention_recurrent

"""Mathematics: pure functions on tensors, each with its equation.

``retention(...)`` itself is in `retentive.ops.retention`: here its name is that of the package. So is
``gated_retention(...)`` in `retentive.ops.gated_retention`.
"""

from retentive.ops.attention import attention as attention
from retentive.ops.gated_retention import gated_retention_chunkwise as gated_retention_chunkwise
from retentive.ops.gated_retention import gated_retention_parallel as gated_retention_parallel
from retentive.ops.gated_retention import gated_retention_recurrent as gated_retention_recurrent
from retentive.ops.gated_retention import gated_retention_reference as gated_retention_reference
from retentive.ops.gated_retention import log_decay_gate as log_decay_gate
from retentive.ops.precision import compute_dtype as compute_dtype
from retentive.ops.precision import state_dtype as state_dtype
from retentive.ops.retention import log_decay_geometric as log_decay_geometric
from retentive.ops.retention import log_decay_linspace as log_decay_linspace
from retentive.ops.retention import retention_chunkwise as retention_chunkwise
from retentive.ops.retention import retention_parallel as retention_parallel
from retentive.ops.retention import retention_recurrent as retention_recurrent
from retentive.ops.retention import retention_reference as retention_reference
from retentive.ops.rotary import rotary_frequencies as rotary_frequencies
from retentive.ops.rotary import rotary_tables as rotary_tables
from retentive.ops.rotary import rotate as rotate

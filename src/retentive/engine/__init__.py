"""How a model is run: steps over rows that come and go, growing buffers, rotations computed ahead, threads."""

from retentive.engine.engine import Engine
from retentive.engine.protocol import (
    BesideTokens,
    EngineStep,
    RowLimits,
    RowPrompt,
    RowState,
    Sampler,
    TokensCall,
)

__all__ = [
    "BesideTokens",
    "Engine",
    "EngineStep",
    "RowLimits",
    "RowPrompt",
    "RowState",
    "Sampler",
    "TokensCall",
]

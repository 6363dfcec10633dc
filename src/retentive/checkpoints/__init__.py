"""Bytes on disk: weights and states as safetensors, configs as JSON."""

from retentive.checkpoints.manifest import ModelManifest, read_manifest
from retentive.checkpoints.states import GenerationState, load_state, read_state_metadata, save_state
from retentive.checkpoints.weights import load_model, save_model
from retentive.models.fingerprint import weights_fingerprint

__all__ = [
    "GenerationState",
    "ModelManifest",
    "load_model",
    "load_state",
    "read_manifest",
    "read_state_metadata",
    "save_model",
    "save_state",
    "weights_fingerprint",
]

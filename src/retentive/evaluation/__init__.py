"""Measurements of a trained model, and their report."""

from retentive.evaluation.bits_per_byte import BitsPerByte, bits_per_byte_in_one_pass, bits_per_byte_in_windows
from retentive.evaluation.documents import Coverage, Documents, select_documents
from retentive.evaluation.long_context import LossByPosition, PositionBucket, loss_by_position
from retentive.evaluation.model_evaluation import EvaluateConfig, Evaluation, EvaluationReport, evaluate, evaluate_model
from retentive.evaluation.report import Report, read_report, write_report
from retentive.evaluation.speed import SpeedPoint, SpeedReport, measure_speed

__all__ = [
    "BitsPerByte",
    "Coverage",
    "Documents",
    "EvaluateConfig",
    "Evaluation",
    "EvaluationReport",
    "LossByPosition",
    "PositionBucket",
    "Report",
    "SpeedPoint",
    "SpeedReport",
    "bits_per_byte_in_one_pass",
    "bits_per_byte_in_windows",
    "evaluate",
    "evaluate_model",
    "loss_by_position",
    "measure_speed",
    "read_report",
    "select_documents",
    "write_report",
]

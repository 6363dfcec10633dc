"""Measurements of a trained model, and their report."""

from retentive.evaluation.measures.bits_per_byte import BitsPerByte, bits_per_byte_in_one_pass, bits_per_byte_in_windows
from retentive.evaluation.measures.documents import Coverage, Documents, select_documents
from retentive.evaluation.measures.loss_by_position import LossByPosition, PositionBucket, loss_by_position
from retentive.evaluation.measures.speed import SpeedPoint, SpeedReport, measure_speed
from retentive.evaluation.model_evaluation import EvaluateConfig, Evaluation, EvaluationReport, evaluate, evaluate_model
from retentive.evaluation.report.document import Report
from retentive.evaluation.report.files import read_report, write_report

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

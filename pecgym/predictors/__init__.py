"""How long a request's output will be, said when it arrives: predictors by name, their columns, their accuracy."""

from pecgym.predictors.accuracy import Accuracy, accuracy, calibration_table
from pecgym.predictors.base import Predictions, Predictor, with_predictions
from pecgym.predictors.names import load_predictor, predictor_names, saved_parts, training_overlap

__all__ = [
    "Accuracy",
    "Predictions",
    "Predictor",
    "accuracy",
    "calibration_table",
    "load_predictor",
    "predictor_names",
    "saved_parts",
    "training_overlap",
    "with_predictions",
]

"""Optional loggers of a run's metrics: TensorBoard, MLflow or W&B, by their own libraries.

    STUDY/tensorboard/<strategy> <run>/  TensorBoard's event files
    STUDY/mlflow.db                      MLflow's, unless MLFLOW_TRACKING_URI names another place
    STUDY/wandb/offline-run-…            W&B's, unless WANDB_MODE says otherwise
    runs/<digest>/loggers.json          which of MLflow's and W&B's runs this one is

A run's own files hold all of this, too: a logger is a copy, and only its number of epochs is read back.
Imports no torch until a logger is requested.
"""

from frostline.loggers.factory import NAMES, Loggers, make_loggers, parse_names
from frostline.loggers.run_logger import Following, OnEpochs

__all__ = ["NAMES", "Following", "Loggers", "OnEpochs", "make_loggers", "parse_names"]

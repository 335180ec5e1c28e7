"""The script that MLflow runs to build the model (models from code); nothing else imports it."""

from mlflow.models import set_model

from fvc.serving.model import VideoVerdict

set_model(VideoVerdict())

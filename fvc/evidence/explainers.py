"""Which maps tell where a classifier looked: each kind has its own."""

from fvc.evidence.explain import Explainer, grad_cam
from fvc.evidence.occlusion import occlusion
from fvc.networks import ClipClassifier


def explainer_of(network: ClipClassifier) -> Explainer:
    """Grad-CAM where gradients pass through it, else occlusion."""
    return occlusion if network.is_fitted else grad_cam

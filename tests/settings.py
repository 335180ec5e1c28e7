"""Parameters for tests that care about a few of them."""

from typing import Any

from fvc.config import ClipsConfig, ModelConfig


def clips_config(num_clips: int, num_frames: int, side_px: int, **changes: Any) -> ClipsConfig:
    """Letterboxed clips of equal spans, unless something else is said."""
    usual: dict[str, Any] = {
        "views": "spans",
        "window_s": 4.0,
        "stride_s": 2.0,
        "sampling": "exact",
        "fit": "letterbox",
        "timeout_s": 60.0,
    }
    fields = usual | changes
    return ClipsConfig(num_clips=num_clips, num_frames=num_frames, side_px=side_px, **fields)


def model_config(pretrained: str = "none") -> ModelConfig:
    """A narrow head on the one network there is."""
    return ModelConfig(network="r3d_18", pretrained=pretrained, head_channels=16, dropout=0.5)

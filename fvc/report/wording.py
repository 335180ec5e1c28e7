"""How the report writes numbers."""

from fvc.evidence.metrics import Estimate


def estimate_text(found: Estimate) -> str:
    """A value with its interval, or why there is none."""
    if found.value is None:
        return f"unknown: {found.reason}"
    if found.low is None or found.high is None:
        return f"{found.value:.3f} ({found.reason})"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"

"""Finished cross-validations put together: what their networks say as one, fold by fold."""

from collections.abc import Sequence

from fvc.config import EvaluateConfig
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration
from fvc.evidence.ensemble import EnsembleFold, Said, joined
from fvc.tracking.finished import CrossValidation, check_same_test
from fvc.tracking.finished_folds import calibrations_of, finished_folds


def said_by(run: CrossValidation) -> dict[int, Said]:
    """What a cross-validation said in each fold, and how it is to be read.

    Raises:
        FvcError: The store lacks a fold, or is of another version of this code.
    """
    calibrations, said = calibrations_of(run), {}
    for number, fold in finished_folds(run).items():
        try:
            calibration = Calibration.from_dict(calibrations[number])
        except (KeyError, ValueError) as error:
            cause = f"has no calibration of fold {number} ({error})"
            raise FvcError(run.name, cause, "Run 'dvc repro -f -s evaluate'") from error
        said[number] = Said(predictions=fold.predictions(), calibration=calibration)
    return said


def ensemble_of(runs: Sequence[CrossValidation], config: EvaluateConfig) -> dict[int, EnsembleFold]:
    """Each fold of an ensemble.

    Raises:
        FvcError: There is one member alone, or a member that was tested otherwise than the first.
    """
    names = " and ".join(run.name for run in runs)
    if len({run.run_id for run in runs}) < max(len(runs), 2):
        raise FvcError(names, "is no ensemble", "Name at least two members, each of them once")
    for run in runs[1:]:
        check_same_test(runs[0], run)
    members = [said_by(run) for run in runs]
    try:
        return {number: joined([said[number] for said in members], config) for number in members[0]}
    except (ValueError, KeyError) as error:
        raise FvcError(names, str(error), "Name others, or train them anew") from error

"""The page of a test set: of a classifier, or of a language model."""

from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.losses import loss_screen
from proponent.web.pages.predictions import prediction_screen
from proponent.web.pages.test_set_frame import TestSetScreen
from proponent.web.states import PredictedState
from proponent.web.test_sets import OpenTestSets


def screen_of_set(
    test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, state: PredictedState, error: str = ""
) -> TestSetScreen:
    """Show a test set, the progress of the work, or the form that takes a file."""
    made = loss_screen if shown.language else prediction_screen
    return made(test_sets, asker, shown, state, error)

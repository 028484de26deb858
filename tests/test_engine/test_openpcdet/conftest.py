"""What the tests of OpenPCDet's optimisation share."""

import itertools
import logging

import pytest
from mmengine.logging import MMLogger

NUMBERS = itertools.count()  # MMEngine takes the logger that was made last for the current one


@pytest.fixture
def log(caplog):
    """Messages of MMEngine's current logger."""
    logger = MMLogger.get_instance(f'openpcdet_{next(NUMBERS)}', log_level='INFO')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)

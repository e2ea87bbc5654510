"""Stored settings compared with those of now."""

import pytest

from robustok.checkpoints.stored_settings import refuse_other_settings
from robustok.core.errors import UserError


def test_other_settings_are_listed_ten_at_most():
    stored, now = {"a": {str(i): i for i in range(12)}}, {"a": {str(i): -1 for i in range(12)}}
    with pytest.raises(UserError) as error:
        refuse_other_settings(stored, now, "runs/x")
    assert str(error.value).count("stored") == 10
    assert "... and 2 more" in str(error.value)
    refuse_other_settings({"a": (1, 2)}, {"a": [1, 2]}, "runs/x")

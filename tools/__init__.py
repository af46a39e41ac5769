"""Programs that the repository needs and the wheel does not contain."""

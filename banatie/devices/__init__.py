"""The device that models compute on, and how its memory is planned."""

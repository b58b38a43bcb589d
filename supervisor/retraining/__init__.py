"""Trainings that are filed by themselves, by rules of the user's."""

"""``azaionctl top``: the live full screen. Imported by its command alone: textual costs a quarter of a second."""

"""Dated, immutable snapshots of the validated annotations, which models are trained on."""

from azaion.dataset.difference import Difference, difference
from azaion.dataset.errors import DatasetError
from azaion.dataset.forming import form
from azaion.dataset.snapshot import Snapshot, load, names, verify, view
from azaion.dataset.split import Split

__all__ = ["DatasetError", "Difference", "Snapshot", "Split", "difference", "form", "load", "names", "verify", "view"]

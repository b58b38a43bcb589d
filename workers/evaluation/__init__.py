"""One evaluation of a model: scores with confidence intervals, and the gate."""

"""Accuracy, cost and time of models, measured side by side in one run.

`run.py` has the order of a run; `quality.py`, `cost.py` and `latency.py` measure; `engines/` compute; `report.py` holds
the result, and `pages/` show it.
"""

"""What a model is worth: its accuracy, its cost and its time, measured side by side in one run.

The order of a run is in `run.py`; what is measured is in `quality.py`, `cost.py` and `latency.py`; who computes is in
`engines/`; what comes out is `report.py` and the pages made from it.
"""

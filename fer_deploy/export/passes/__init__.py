"""The steps that turn what torch's exporter writes into the file that we ship, one step a module.

Each step takes a model, changes it in place and gives it back; `PASSES` says the order, `run_passes` names the step
that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from fer_deploy.errors import ExportError
from fer_deploy.export.passes.duplicates import merge_duplicates
from fer_deploy.export.passes.members import hide_members
from fer_deploy.export.passes.metadata import strip_metadata
from fer_deploy.export.passes.names import plain_names
from fer_deploy.export.passes.pooling import pool_globally
from fer_deploy.export.passes.reshapes import reshape_by_constants
from fer_deploy.export.passes.unused import drop_unused
from fer_deploy.export.passes.versions import set_versions

Pass = Callable[[onnx.ModelProto], onnx.ModelProto]

PASSES: tuple[Pass, ...] = (
    strip_metadata,
    reshape_by_constants,
    pool_globally,
    merge_duplicates,
    plain_names,
    hide_members,
    drop_unused,
    set_versions,
)
"""The steps, in order."""


def run_passes(model: onnx.ModelProto, passes: Sequence[Pass] = PASSES) -> onnx.ModelProto:
    """Run `passes` in order. ExportError, with the step's name, when one fails."""
    for step in passes:
        try:
            model = step(model)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"the export step {step.__name__} failed: {error}") from error
    return model

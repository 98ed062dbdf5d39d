"""List the pictures in folders, on the disk or in an archive: the folders name the classes and the splits.

`faces.levels` tells which folder level is which. What does not belong to the tree is counted in a note.
"""

from __future__ import annotations

from fer_deploy.faces.file_sets import FileSet
from fer_deploy.faces.levels import Levels, split_in_name
from fer_deploy.faces.listing import Listing


def tree_listing(files: FileSet, levels: Levels) -> Listing:
    """The listing of the pictures that lie in folders of classes.

    If no folder is validation and every test picture is called PublicTest… or PrivateTest…, as in a common copy of
    FER2013, the names of the files tell the two splits apart.
    """
    kept = [place for place, label in enumerate(levels.labels) if label is not None]
    names = [files.pictures[place] for place in kept]
    splits = [levels.splits[place] for place in kept]
    left_out = files.without(files.pictures)
    if outside := len(files.pictures) - len(kept):
        left_out.counts["pictures outside the folders of classes"] = outside
    notes = [levels.note]
    in_test = {name: split_in_name(name) for name, split in zip(names, splits, strict=True) if split == "test"}
    if "validation" not in splits and set(in_test.values()) == {"validation", "test"}:
        splits = [in_test.get(name, split) for name, split in zip(names, splits, strict=True)]
        notes.append("the test folder was split into PublicTest and PrivateTest by the names of its files")
    labels = [label for label in levels.labels if label is not None]
    return files.listing(names, labels, splits, notes=notes, left_out=left_out)

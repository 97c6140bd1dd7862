"""mosaicml-streaming's MDSWriter, without what its package pulls in.

`import streaming` imports torchvision, which replaces a CPU build of torch by a CUDA build or
breaks beside it. The writer itself needs neither, so a bare package object stands in for
`streaming` while its base modules are imported, unless the real package is loaded already.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

MAX_HEADER_BYTES = 256
"""More than the header of a shard with one column and one row takes."""


def import_streaming_base() -> None:
    """Makes `streaming.base...` importable where torchvision is absent."""
    if "streaming" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    spec = importlib.util.find_spec("streaming")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("mosaicml-streaming is not installed", name="streaming")
    package = ModuleType("streaming")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["streaming"] = package


def mds_writer(*, folder: str, column: str, encoding: str, shard_bytes: int) -> Any:
    """An MDSWriter of one fixed-width column whose index carries an xxh3 hash per shard.

    A shard takes at most `shard_bytes`, or what one row needs.
    """
    import_streaming_base()
    from streaming.base.format.mds.encodings import get_mds_encoded_size
    from streaming.base.format.mds.writer import MDSWriter

    return MDSWriter(
        out=os.path.abspath(folder),  # in a relative one, "~" or "name:" would lead elsewhere
        columns={column: encoding},
        hashes=["xxh3_64"],
        # Below the size of one row, MDSWriter would begin with an empty shard.
        size_limit=max(shard_bytes, MAX_HEADER_BYTES + get_mds_encoded_size(encoding)),
    )

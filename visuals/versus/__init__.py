"""Pictures of several runs side by side. One picture, one file, as for single runs; `VERSUS` lists them by id.

They take lanes (`visuals.versus.lanes`) instead of events, and are otherwise like every other picture: plain data in
light colours, with a table and a narration, for any prefix of any streams.
"""

from __future__ import annotations

from visuals.picture import Picture
from visuals.versus import overhead, progress, speed, theory

VERSUS: dict[str, Picture] = {
    one.id: one for one in (progress.PICTURE, speed.PICTURE, overhead.PICTURE, theory.PICTURE)
}

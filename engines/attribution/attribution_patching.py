"""Attribution patching: the effects of all patches, estimated from one gradient.

"Attribution Patching: Activation Patching At Industrial Scale", Nanda, 2023 (no arXiv number); studied in "AtP*: An
efficient and scalable method for localizing LLM behaviour to components", Kramár et al., arXiv 2403.00745.

    s[site] ← Σ ∂m/∂a[site] · (a_other[site] − a_base[site])

The true gradient, without a rule: `relp` with all its switches off. It is exact where the network is straight, and lies
where it bends, most of all at norms and gated MLPs.
"""

from __future__ import annotations

from collections.abc import Iterator

from engines.attribution.relp import Measuring, examine
from engines.events import Event
from engines.method import Need, Paper, method
from engines.models.rules import GRADIENT
from engines.runner import Run


class Params(Measuring, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


@method(
    "attribution-patching",
    title="Attribution patching",
    family="attribution",
    needs=Need.LOGITS | Need.GRADIENTS,
    paper=Paper("Attribution Patching: Activation Patching At Industrial Scale", "Nanda", 2023),
    params=Params,
    idea="Follow the gradient from the answer back to every part of the model, and multiply it by how much that part "
    "changed: a quick guess of what patching it would do.",
    look_at="The map of the MLPs, beside the exact one: the gradient is wrong there. Then run relevance patching.",
    loses=("ioi",),
    pictures=("patch-maps", "circuit-graph", "head-map"),
)
def attribution_patching(run: Run, params: Params) -> Iterator[Event]:
    yield from examine(run, params, "attribution-patching", GRADIENT)

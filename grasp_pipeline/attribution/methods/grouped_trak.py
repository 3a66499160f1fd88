"""TRAK of groups of chunks: its kernel is a sum over groups, F = sum_Z g_Z g_Z' (GGDA, arXiv 2410.09940, section 3.2).

g_Z is the gradient of the group's summed loss. With groups of one this is TRAK with chunks weighted by their tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.grouped import Grouped, Groups, group_means
from grasp_pipeline.attribution.methods.ggda import sketch_groups
from grasp_pipeline.attribution.methods.inputs import FORMS, GROUP_DAMPINGS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.methods.trak import Kernel, Trak, trak_gram
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import Form


def grouped_trak(
    targets: Floats, damping: Callable[[Kernel], float], known: Kernel | None = None
) -> Callable[[Groups], Trak]:
    """Return what `Grouped` scores groups by: TRAK of their summed gradients.

    targets: (T, d). damping: of the kernel (d, d), added to its diagonal. known: `group_kernel` of the groups, where it
    serves several dampings.

    Raises, when called:
        InputError: the groups have no losses.
    """

    def build(groups: Groups) -> Trak:
        kernel = group_kernel(groups) if known is None else known
        assert groups.losses is not None, "a kernel needs them"
        sums = _sums(groups)
        return Trak(sums, np.ones(len(sums)), targets, groups.losses, damping(kernel), "sum", kernel)

    return build


def group_kernel(groups: Groups) -> Kernel:
    """Return the kernel of groups, sum_Z g_Z g_Z', with TRAK's weights by losses.

    Raises:
        InputError: the groups have no losses.
    """
    if groups.losses is None:
        raise InputError("TRAK weighs groups by their losses; give the losses of chunks to `group_means`")
    return Kernel.of(trak_gram(_sums(groups), groups.losses))


def _sums(groups: Groups) -> NDArray[np.float32]:
    return (groups.sketches * groups.sizes[:, None]).astype(np.float32)


@baseline(
    "TRAK, k-means groups",
    FORMS,
    "s_it = w_i / sum_Z w r_t' (sum_Z g_Z g_Z' + damping I)^-1 g_Z, tuned damping",
    "arXiv 2410.09940, 2303.14186",
    by_kind=True,
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return inputs.tuned_forms(
        (kind, Grouped(grouped_trak(view.targets, _relative(rho), kernel), groups))
        for kind, view in inputs.views.items()
        for labels in sketch_groups(inputs, view)
        for groups in [group_means(view.sketches, inputs.n_tokens, labels, view.losses)]
        for kernel in [group_kernel(groups)]
        for rho in GROUP_DAMPINGS
    )


def _relative(rho: float) -> Callable[[Kernel], float]:
    return lambda kernel: rho * kernel.mean

"""The same search on many machines: Ray starts workers with their own engines, one process keeps queue and store.

    TaskQueue        which worker searches which tree; pure bookkeeping
    Fleet            the workers: one per node or group of GPUs, started again where they die, and on nodes that join
    SearchWorker     engines and sandboxes on one node, and the trees searched there
    ClusterSearcher  `rstar.searcher.Searcher` over these

`shell` and `slots` put training's own launchers on the cluster's machines. Only this package imports Ray, and only when
something is asked of it.
"""

from rstar.cluster.searcher import ClusterSearcher
from rstar.cluster.slots import training_slots

__all__ = ["ClusterSearcher", "training_slots"]

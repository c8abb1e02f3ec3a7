"""Lower bounds that hold for any policy on a cluster, and every policy's distance to them.

What holds them up, each part in its module:

1. `solo`: the least time in which a request can be served, alone on the cluster.
2. `prices`: a linear price list of tokens, sequences and KV reads that no iteration can undercut, so that the price of
   everything in a request is replica-time that somebody spends on it, whatever shares its iterations.
3. `work`: that price of every request, its least work.
4. `relaxation`: a single machine as fast as all replicas together, on which shortest remaining work first is optimal.
5. `row`: of these the bounds of the metrics, under the metrics' names.
"""

from pecgym.bounds.row import bound_row

__all__ = ["bound_row"]

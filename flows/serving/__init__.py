"""A Prefect server, a worker and the deployments on this machine: what `cpt up`, `down`, `status` and `run` stand on.

::

    operation     up, down                       overview      what runs, on one screen
    embedded      a server for one `cpt run`     deployments   deployments/prefect.yaml -> server
    supervisor    the daemon that restarts       prefect_server  start one, wait until it answers
    drain         nothing recorded is lost       dead_runs     runs that a stop interrupted
    environment   the settings of every process  processes, state, api   pids, the state file, HTTP

In: a configuration and a home folder ($CPT_HOME or ~/.cpt).
Out: running processes, and a database and logs that stay in the home folder.
Promise: what `up` started, `down` stops: every process carries the mark of its home.
Never: opens a port to the network, or asks the outside anything.
"""

from flows.serving.environment import cpt_home
from flows.serving.operation import down, up
from flows.serving.overview import ServingStatus, describe, status

__all__ = ["ServingStatus", "cpt_home", "describe", "down", "status", "up"]

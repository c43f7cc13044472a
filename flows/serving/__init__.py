"""A Prefect server, a worker and the deployments on this machine: what `cpt up`, `down`, `status` and `run` stand on.

::

    operation     up, down                       overview      what runs, on one screen
    embedded      a server for one `cpt run`     deployments   deployments/prefect.yaml -> server
    supervisor    the daemon that restarts       prefect_server  start one, wait until it answers
    drain         nothing recorded is lost       dead_runs     runs that a stop interrupted
    automations   the server ends silent runs    schedules     by the clock, or on new files
    access        address and password           database      SQLite or PostgreSQL
    server_process  the server itself            own_pages     its pages ask no other host
    environment   the settings of every process  jobs          what runs here beside them
    processes, state, address, api               pids, the state file, URLs, HTTP

In: a configuration and a home folder ($CPT_HOME or ~/.cpt).
Out: running processes, and a database and logs that stay in the home folder.
Promise: what `up` started, `down` stops: every process carries the mark of its home.
Never: opens a port to the network without a password, or asks the outside anything.
"""

from flows.serving.environment import cpt_home
from flows.serving.operation import down, up
from flows.serving.overview import ServingStatus, describe, status

__all__ = ["ServingStatus", "cpt_home", "describe", "down", "status", "up"]

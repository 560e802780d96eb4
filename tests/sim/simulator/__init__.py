"""A whole cluster in one process and in virtual time: the real programs over pretend machines.

Real: coordinators (store mirror, lease, election, leader's loop, sessions, control) and agents
(session, orders, supervisor, machine, lease, journal's logic). Pretended: etcd (`store.memory`),
the streams between them (`wires`), processes and disks (`machines`), and time (`virtual`). One
seed decides everything: which faults come when, what people ask for, how long things take.

    python -m simulator 0..99            # from tests/sim, with PYTHONHASHSEED=0; see `__main__`
"""

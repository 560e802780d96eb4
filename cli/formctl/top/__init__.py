"""`formctl top`: the whole cluster, live.

`seen` is what is known, `columns` what of it stands where, `look` what a person has chosen to see,
`keys` what a key does to that, `draw` what it looks like: all pure. `feeding` and `doing` talk to
coordinators, `program` to the terminal.
"""

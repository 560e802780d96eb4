"""`formctl dev`: a whole cluster of one project on this machine, gone when it ends."""

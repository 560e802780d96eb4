"""One module for each command, each with a click command named `command`.

They read options, call and print. grpc and asyncio are imported inside the functions, so that
`--help` and completion stay fast.
"""

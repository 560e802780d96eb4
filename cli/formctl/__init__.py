"""formctl: what people type. Calls the control service and prints; decides nothing itself.

It starts often, so nothing imports grpc or asyncio before a command needs them.
"""

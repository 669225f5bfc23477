"""The pure core: machines that turn facts into actions, and nothing else.

Only the standard library and msgspec structs; no clock, I/O, randomness, asyncio, text or token ids.
"""
